use std::time::Duration;

use futures::future::join_all;
use gofer_core::RunNumber;
use gofer_core::event::EventDetails;
use gofer_core::journal::Runs as _;
use gofer_db::{Db, EventFilter};

use crate::engines::{Place, on_both_engines};
use crate::setup::{
    at, default, insert, last_event, new_run, ns, pl, register, registration, spec,
};

on_both_engines! {
    events_are_filtered_and_walked_both_ways
    numbers_have_no_gaps_whatever_fails
    followers_are_told_and_see_everything
    a_restarted_server_knows_the_last_event
    events_of_before_have_the_names_of_now
}

async fn populate(db: &Db) {
    let team = ns("team");
    db.server_started("s-1", "0.1.0", at(0)).await.unwrap();
    db.namespace_create(&team, "", "ada", at(1)).await.unwrap();
    db.pipeline_register(registration(&team, spec("ci", &["a"]), "d"), "ada", at(2)).await.unwrap();
    register(db, "ci", &["a"]).await;
    insert(db, "ci", 3).await;
    db.insert_run(new_run(&team, "ci", 4)).await.unwrap();
    insert(db, "ci", 5).await;
    register(db, "deploy", &["a"]).await;
    insert(db, "deploy", 6).await;
}

async fn events_are_filtered_and_walked_both_ways(place: Place) {
    let db = place.open().await;
    populate(&db).await;
    let check = async |filter: EventFilter, expected: &[u64]| {
        for limit in [1, 2, 100] {
            let (mut forward, mut cursor) = (Vec::new(), 0);
            loop {
                let page = db.event_list_after(cursor, &filter, limit).await.unwrap();
                let Some(last) = page.last() else { break };
                cursor = last.id;
                forward.extend(page.iter().map(|event| event.id));
            }

            assert_eq!(forward, expected, "{filter:?}");
            let (mut backward, mut cursor) = (Vec::new(), None);
            loop {
                let page = db.event_list_before(cursor, &filter, limit).await.unwrap();
                let Some(last) = page.last() else { break };
                cursor = Some(last.id);
                backward.extend(page.iter().map(|event| event.id));
            }

            backward.reverse();
            assert_eq!(backward, expected, "{filter:?}");
        }
    };

    let any = EventFilter::default;
    check(any(), &[1, 2, 3, 4, 5, 6, 7, 8, 9]).await;
    check(EventFilter { namespaces: Some(vec![default()]), ..any() }, &[4, 5, 7, 8, 9]).await;
    let both = Some(vec![ns("team"), default(), default(), ns("unknown")]);
    check(EventFilter { namespaces: both, ..any() }, &[2, 3, 4, 5, 6, 7, 8, 9]).await;
    check(EventFilter { namespaces: Some(vec![]), ..any() }, &[]).await;
    check(EventFilter { pipeline: Some(pl("ci")), ..any() }, &[3, 4, 5, 6, 7]).await;

    let ci = EventFilter { namespaces: Some(vec![default()]), pipeline: Some(pl("ci")), ..any() };
    check(ci.clone(), &[4, 5, 7]).await;
    check(EventFilter { run: Some(RunNumber(2)), ..ci.clone() }, &[7]).await;
    check(EventFilter { types: vec!["run_created".into()], ..ci }, &[5, 7]).await;
    check(
        EventFilter { types: vec!["server_started".into(), "namespace_created".into()], ..any() },
        &[1, 2],
    )
    .await;
}

async fn numbers_have_no_gaps_whatever_fails(place: Place) {
    let db = place.open().await;
    register(&db, "ci", &["a"]).await;
    let calls = (0..60).map(|number| {
        let db = db.clone();
        tokio::spawn(async move {
            if number % 3 == 0 {
                // Refused, within the same transaction as others on SQLite.
                assert!(db.namespace_create(&default(), "", "ada", at(number)).await.is_err());
            } else {
                insert(&db, "ci", number).await;
            }
        })
    });

    for joined in join_all(calls).await {
        joined.unwrap();
    }

    let events = db.event_list_after(0, &EventFilter::default(), 1_000).await.unwrap();
    let numbers: Vec<u64> = events.iter().map(|event| event.id).collect();
    assert_eq!(numbers, (1..=41).collect::<Vec<_>>());
    assert_eq!(last_event(&db), 41);
    assert_eq!(db.run_counts().await.unwrap().last_event_id, 41);
}

async fn followers_are_told_and_see_everything(place: Place) {
    const EVENTS: u64 = 100;

    let db = place.open().await;
    register(&db, "ci", &["a"]).await;
    let followers = (0..3).map(|_| {
        let db = db.clone();
        tokio::spawn(async move {
            let (mut news, mut cursor, mut seen) = (db.event_watch(), 0, Vec::new());
            while cursor < EVENTS + 1 {
                news.wait_for(|last| *last > cursor).await.unwrap();
                let told = *news.borrow();
                let page =
                    db.event_list_after(cursor, &EventFilter::default(), 1_000).await.unwrap();
                cursor = page.last().map_or(cursor, |event| event.id);
                assert!(cursor >= told, "what was told can be seen");
                seen.extend(page.into_iter().map(|event| event.id));
            }

            seen
        })
    });

    let followers: Vec<_> = followers.collect();
    let writers = (0..EVENTS).map(|number| {
        let db = db.clone();
        tokio::spawn(async move { insert(&db, "ci", number as i64).await })
    });

    join_all(writers).await;
    for follower in followers {
        let seen =
            tokio::time::timeout(Duration::from_secs(60), follower).await.expect("ends").unwrap();
        assert_eq!(seen, (1..=EVENTS + 1).collect::<Vec<_>>());
    }
}

async fn a_restarted_server_knows_the_last_event(place: Place) {
    let db = place.open().await;
    populate(&db).await;
    db.close().await;
    let db = place.open().await;
    assert_eq!(last_event(&db), 9);
    let events = db.event_list_after(8, &EventFilter::default(), 10).await.unwrap();
    assert_eq!(events.len(), 1);
}

/// As the version before the migration that renamed an event left it.
const BEFORE_SLOTS: &str = r#"
    UPDATE events SET type = 'task_run_placed', details = '{"type":"task_run_placed"}' WHERE id = 9;
    DELETE FROM __diesel_schema_migrations WHERE version = '00000000000009'"#;

async fn events_of_before_have_the_names_of_now(place: Place) {
    let db = place.open().await;
    populate(&db).await;
    db.close().await;
    place.execute(BEFORE_SLOTS).await;

    let db = place.open().await;
    let types = vec!["task_run_slot_acquired".to_owned()];
    let filter = EventFilter { types, ..EventFilter::default() };
    let found = db.event_list_after(0, &filter, 10).await.unwrap();
    assert_eq!(found.iter().map(|event| event.id).collect::<Vec<_>>(), [9]);
    assert_eq!(found[0].body.details, EventDetails::TaskRunSlotAcquired {});
    let all = db.event_list_after(0, &EventFilter::default(), 10).await.unwrap();
    assert_eq!(all.len(), 9, "the others are as they were");
}
