use gofer_core::journal::{Commit, Runs};
use gofer_core::run::{CancelRequest, RunState, RunStatus, TaskRun, TaskState, TaskStatus};
use gofer_core::{Resource, RunKey, RunNumber};
use gofer_db::{DbError, RunFilter};

use crate::engines::{Place, on_both_engines};
use crate::setup::{
    all, at, claim, claim_one, commit, default, ended, finish, insert, missing, new_run, ns, page,
    pages, pl, register, registration, spec, starting, task,
};

on_both_engines! {
    runs_are_listed_newest_first_and_filtered
    the_latest_run_is_found
    a_run_token_counts_until_the_run_is_complete
    task_runs_are_listed_by_id_with_or_without_rows
    attempts_are_listed
    counts_are_of_all_namespaces
    a_run_of_ten_thousand_tasks_is_loaded_and_changed
}

async fn runs_are_listed_newest_first_and_filtered(place: Place) {
    let db = place.open().await;
    let team = ns("team");
    db.namespace_create(&team, "", "ada", at(0)).await.unwrap();
    db.pipeline_register(registration(&team, spec("ci", &["a"]), "d"), "ada", at(0)).await.unwrap();
    db.insert_run(new_run(&team, "ci", 0)).await.unwrap();
    register(&db, "ci", &["a"]).await;
    register(&db, "deploy", &["a"]).await;

    for (seconds, status) in
        [(1, RunStatus::Successful), (2, RunStatus::Failed), (3, RunStatus::Cancelled)]
    {
        claim(&db, 0).await;
        insert(&db, "ci", seconds).await;
        finish(&db, &claim_one(&db, seconds).await, &task("a"), status, seconds).await;
    }

    insert(&db, "deploy", 4).await;
    claim_one(&db, 5).await;
    insert(&db, "ci", 6).await;
    insert(&db, "deploy", 7).await;

    let list = async |filter: RunFilter| {
        let runs = pages!(2, |page| db.run_list(&default(), &filter, page));
        assert!(runs.iter().all(|run| run.variables.is_empty()), "lists leave them out");
        runs.iter()
            .map(|run| format!("{}{}", run.key.pipeline, run.key.run))
            .collect::<Vec<_>>()
            .join(" ")
    };

    let states =
        |states: &[RunState]| RunFilter { states: states.to_vec(), ..RunFilter::default() };
    let statuses =
        |statuses: &[RunStatus]| RunFilter { statuses: statuses.to_vec(), ..RunFilter::default() };
    let complete = RunState::Complete(RunStatus::Successful);
    assert_eq!(list(RunFilter::default()).await, "deploy2 ci4 deploy1 ci3 ci2 ci1");

    let of_ci = RunFilter { pipeline: Some(pl("ci")), ..RunFilter::default() };
    assert_eq!(list(of_ci.clone()).await, "ci4 ci3 ci2 ci1");
    assert_eq!(list(states(&[RunState::Pending])).await, "deploy2 ci4");
    assert_eq!(list(states(&[RunState::Pending, RunState::Running])).await, "deploy2 ci4 deploy1");
    assert_eq!(
        list(states(&[complete])).await,
        "ci3 ci2 ci1",
        "the status inside counts for nothing"
    );
    assert_eq!(list(states(&[complete, RunState::Running])).await, "deploy1 ci3 ci2 ci1");
    assert_eq!(list(statuses(&[RunStatus::Failed])).await, "ci2");
    assert_eq!(list(statuses(&[RunStatus::Failed, RunStatus::Cancelled])).await, "ci3 ci2");
    assert_eq!(list(statuses(&[RunStatus::Failed, RunStatus::Successful])).await, "ci2 ci1");
    assert_eq!(list(RunFilter { states: vec![RunState::Pending], ..of_ci }).await, "ci4");
    assert_eq!(list(RunFilter { pipeline: Some(pl("no")), ..RunFilter::default() }).await, "");

    let nonsense = db.run_list(&default(), &RunFilter::default(), &page(Some("1; --"), 1)).await;
    assert!(matches!(nonsense, Err(DbError::Invalid { field: "after", .. })), "{nonsense:?}");
}

async fn the_latest_run_is_found(place: Place) {
    let db = place.open().await;
    register(&db, "ci", &["a"]).await;
    missing(db.run_latest(&default(), &pl("ci")).await, Resource::Run);
    insert(&db, "ci", 1).await;
    let second = insert(&db, "ci", 2).await;
    assert_eq!(db.run_latest(&default(), &pl("ci")).await.unwrap(), second);
    assert_eq!(db.run_get(&second.key).await.unwrap(), second);
    missing(db.run_get(&RunKey { run: RunNumber(3), ..second.key.clone() }).await, Resource::Run);
    missing(db.run_get(&RunKey { run: RunNumber(u64::MAX), ..second.key }).await, Resource::Run);
}

async fn a_run_token_counts_until_the_run_is_complete(place: Place) {
    let db = place.open().await;
    register(&db, "ci", &["a"]).await;
    let new = new_run(&default(), "ci", 1);
    let hash = new.token_hash;
    let key = db.insert_run(new).await.unwrap().run.key;
    assert_eq!(db.run_by_token_hash(&hash).await.unwrap(), Some(key.clone()));
    assert_eq!(db.run_by_token_hash(&[0; 32]).await.unwrap(), None);
    let lease = claim_one(&db, 2).await;
    assert_eq!(db.run_by_token_hash(&hash).await.unwrap(), Some(key.clone()));
    assert!(db.run_is_unfinished(&key).await.unwrap());
    assert!(!db.run_is_unfinished(&RunKey { run: RunNumber(7), ..key.clone() }).await.unwrap());
    finish(&db, &lease, &task("a"), RunStatus::Successful, 3).await;
    assert_eq!(db.run_by_token_hash(&hash).await.unwrap(), None, "revoked");
    assert!(!db.run_is_unfinished(&key).await.unwrap());
}

async fn task_runs_are_listed_by_id_with_or_without_rows(place: Place) {
    let db = place.open().await;
    register(&db, "ci", &["d", "a", "c", "b"]).await;
    let key = insert(&db, "ci", 1).await.key;
    let lease = claim_one(&db, 2).await;
    let tasks = vec![starting(&task("c"), 3)];
    commit(&db, Commit { lease, tasks, run: None, events: Vec::new() }).await;

    let request =
        CancelRequest { at: at(4), by: "ada".to_owned(), force: false, message: String::new() };
    assert!(db.request_cancel(&key, Some(&task("a")), request.clone()).await.unwrap());

    let listed = pages!(1, |page| db.task_run_list(&key, page));
    let names: Vec<&str> = listed.iter().map(|run| run.task.as_str()).collect();
    assert_eq!(names, ["a", "b", "c", "d"]);
    assert_eq!(listed[0], TaskRun { cancel: Some(request), ..TaskRun::pending(task("a")) });
    assert_eq!(listed[1], TaskRun::pending(task("b")));
    assert_eq!((listed[2].state, listed[2].intended_at), (TaskState::Starting, Some(at(3))));

    for one in &listed {
        assert_eq!(db.task_run_get(&key, &one.task).await.unwrap(), *one);
    }

    let loaded: Vec<TaskRun> = db.load(&key).await.unwrap().tasks.into_values().collect();
    assert_eq!(loaded, listed);
    let wanted = [task("c"), task("e"), task("a")];
    let some = db.run_with_tasks(&key, &wanted).await.unwrap();
    assert_eq!(some.run, db.run_get(&key).await.unwrap());
    assert_eq!(
        some.tasks,
        [listed[2].clone(), listed[0].clone()],
        "what the pipeline does not have is left out"
    );
    assert_eq!(some.attempts, db.attempt_list(&key, Some(&wanted)).await.unwrap());
    missing(
        db.run_with_tasks(&RunKey { run: RunNumber(9), ..key.clone() }, &[task("a")]).await,
        Resource::Run,
    );
    missing(db.task_run_get(&key, &task("e")).await, Resource::TaskRun);
    missing(db.task_run_list(&RunKey { run: RunNumber(9), ..key }, &all()).await, Resource::Run);
}

async fn attempts_are_listed(place: Place) {
    let db = place.open().await;
    register(&db, "ci", &["b", "a"]).await;
    let key = insert(&db, "ci", 1).await.key;
    let lease = claim_one(&db, 2).await;
    for name in ["b", "a"] {
        let tasks = vec![starting(&task(name), 3), ended(&task(name), TaskStatus::Failed, 4)];
        commit(&db, Commit { lease: lease.clone(), tasks, run: None, events: Vec::new() }).await;
    }
    let listed = db.attempt_list(&key, None).await.unwrap();
    let names: Vec<&str> = listed.iter().map(|(task, _)| task.as_str()).collect();
    assert_eq!(names, ["a", "b"]);
    assert_eq!((listed[0].1.status, listed[0].1.ended_at), (TaskStatus::Failed, at(4)));
    assert_eq!(db.attempt_list(&key, Some(&[task("b"), task("x")])).await.unwrap(), listed[1..]);
    missing(db.attempt_list(&RunKey { run: RunNumber(9), ..key }, None).await, Resource::Run);
}

async fn counts_are_of_all_namespaces(place: Place) {
    let db = place.open().await;
    let nothing = db.run_counts().await.unwrap();
    assert_eq!((nothing.pending_runs, nothing.running_runs, nothing.last_event_id), (0, 0, 0));
    assert_eq!(db.run_oldest_pending().await.unwrap(), None);
    register(&db, "ci", &["a"]).await;
    insert(&db, "ci", 1).await;
    claim_one(&db, 2).await;
    insert(&db, "ci", 3).await;
    insert(&db, "ci", 4).await;
    let counts = db.run_counts().await.unwrap();
    assert_eq!((counts.pending_runs, counts.running_runs, counts.last_event_id), (2, 1, 5));
    assert_eq!(db.run_oldest_pending().await.unwrap(), Some(at(3)));
}

async fn a_run_of_ten_thousand_tasks_is_loaded_and_changed(place: Place) {
    const TASKS: usize = 10_000;

    let db = place.open().await;
    let names: Vec<String> = (0..TASKS).map(|number| format!("t{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    register(&db, "wide", &names).await;

    let key = insert(&db, "wide", 1).await.key;
    let lease = claim_one(&db, 2).await;
    let tasks = names.iter().map(|name| starting(&task(name), 3)).collect();
    commit(&db, Commit { lease, tasks, run: None, events: Vec::new() }).await;

    let snapshot = db.load(&key).await.unwrap();
    assert_eq!(snapshot.tasks.len(), TASKS);
    assert!(snapshot.tasks.values().all(|run| run.state == TaskState::Starting));

    let mut retry = new_run(&default(), "wide", 4);
    retry.retry_of = Some(key.run);
    retry.reused = names.iter().map(|name| task(name)).collect();
    let retry = db.insert_run(retry).await.unwrap().run.key;
    assert!(db.load(&retry).await.unwrap().tasks.values().all(|run| run.state.is_complete()));
}
