//! Secrets: put, read, listed, deleted, and used by tasks without ever being shown.

use gofer_proto::v1;
use gofer_proto::v1::secret_scope::Scope;
use tonic::Code;

use crate::harness::{
    Clients, TestServer, assert_invalid, assert_refused, on_each_database, pipeline, shell,
};

on_each_database!(
    a_secret_is_put_read_listed_and_deleted,
    global_secrets_list_their_namespaces,
    a_value_that_hides_ordinary_text_is_stored_with_a_warning,
    two_puts_if_absent_at_once_keep_one_value,
    bad_secrets_are_refused_without_repeating_them,
    a_task_gets_the_value_and_its_log_does_not,
);

fn of_pipeline(pipeline: &str) -> Option<v1::SecretScope> {
    let scope = v1::PipelineScope { namespace: "default".into(), pipeline: pipeline.into() };
    Some(v1::SecretScope { scope: Some(Scope::PipelineScope(scope)) })
}

fn global() -> Option<v1::SecretScope> {
    Some(v1::SecretScope { scope: Some(Scope::GlobalScope(v1::GlobalScope {})) })
}

pub(crate) fn put(key: &str, value: &str) -> v1::PutSecretRequest {
    v1::PutSecretRequest {
        scope: of_pipeline("ci"),
        key: key.into(),
        value: value.into(),
        ..Default::default()
    }
}

fn get(key: &str) -> v1::GetSecretRequest {
    v1::GetSecretRequest { scope: of_pipeline("ci"), key: key.into() }
}

async fn with_pipeline(server: &TestServer) -> Clients {
    let clients = server.anybody();
    clients.register(pipeline("ci", vec![shell("t", "true")])).await;
    clients
}

async fn a_secret_is_put_read_listed_and_deleted(server: TestServer) {
    let clients = with_pipeline(&server).await;
    let first = clients
        .secrets()
        .put_secret(put("db/password", "hunter2"))
        .await
        .unwrap()
        .into_inner()
        .secret
        .unwrap();
    let second = clients
        .secrets()
        .put_secret(put("db/password", "hunter3"))
        .await
        .unwrap()
        .into_inner()
        .secret
        .unwrap();

    assert_eq!((first.created_at, second.updated_by.as_str()), (second.created_at, "dev"));
    let found = clients.secrets().get_secret(get("db/password")).await.unwrap().into_inner();
    assert_eq!((found.value.as_str(), found.secret.unwrap()), ("hunter3", second));
    let absent = v1::PutSecretRequest { if_absent: true, ..put("db/password", "x") };
    assert_refused(
        clients.secrets().put_secret(absent).await,
        Code::AlreadyExists,
        "SECRET_ALREADY_EXISTS",
    );

    clients.secrets().put_secret(put("other", "x")).await.unwrap();
    let list = v1::ListSecretsRequest {
        scope: of_pipeline("ci"),
        prefix: "db/".into(),
        ..Default::default()
    };

    let listed = clients.secrets().list_secrets(list).await.unwrap().into_inner().secrets;
    assert_eq!(
        listed.iter().map(|secret| secret.key.as_str()).collect::<Vec<_>>(),
        ["db/password"]
    );

    let delete = v1::DeleteSecretRequest { scope: of_pipeline("ci"), key: "db/password".into() };
    assert!(clients.secrets().delete_secret(delete.clone()).await.unwrap().into_inner().existed);
    assert!(!clients.secrets().delete_secret(delete).await.unwrap().into_inner().existed);
    assert_refused(
        clients.secrets().get_secret(get("db/password")).await,
        Code::NotFound,
        "SECRET_NOT_FOUND",
    );
}

async fn global_secrets_list_their_namespaces(server: TestServer) {
    let clients = with_pipeline(&server).await;
    let request = v1::PutSecretRequest {
        scope: global(),
        allowed_namespaces: vec!["default".into()],
        ..put("registry", "hunter2")
    };
    let secret =
        clients.secrets().put_secret(request.clone()).await.unwrap().into_inner().secret.unwrap();
    assert_eq!((secret.scope, secret.allowed_namespaces), (global(), vec!["default".to_owned()]));
    let list = v1::ListSecretsRequest { scope: global(), ..Default::default() };
    assert_eq!(clients.secrets().list_secrets(list).await.unwrap().into_inner().secrets.len(), 1);
    let odd = v1::PutSecretRequest { allowed_namespaces: vec!["a*".into()], ..request };
    assert_invalid(clients.secrets().put_secret(odd).await, &["allowed_namespaces[0]", "a*"]);
}

async fn a_value_that_hides_ordinary_text_is_stored_with_a_warning(server: TestServer) {
    let clients = with_pipeline(&server).await;
    for (value, warns) in [("hunter2", false), ("q7", true), ("true", true)] {
        let response = clients.secrets().put_secret(put("k", value)).await.unwrap().into_inner();
        assert_eq!(!response.warning.is_empty(), warns, "{}", response.warning);
        assert_eq!(clients.secrets().get_secret(get("k")).await.unwrap().into_inner().value, value);
    }
}

async fn two_puts_if_absent_at_once_keep_one_value(server: TestServer) {
    let clients = with_pipeline(&server).await;
    let puts = (0..6).map(|at| {
        let mut secrets = clients.secrets();
        let request = v1::PutSecretRequest { if_absent: true, ..put("k", &format!("value-{at}")) };
        async move { secrets.put_secret(request).await.is_ok().then(|| format!("value-{at}")) }
    });
    let won: Vec<_> = futures::future::join_all(puts).await.into_iter().flatten().collect();
    assert_eq!(won.len(), 1);
    assert_eq!(clients.secrets().get_secret(get("k")).await.unwrap().into_inner().value, won[0]);
}

async fn bad_secrets_are_refused_without_repeating_them(server: TestServer) {
    let clients = with_pipeline(&server).await;
    let unscoped = v1::PutSecretRequest { scope: None, ..put("k", "hunter2") };
    assert_invalid(
        clients.secrets().put_secret(unscoped).await,
        &["scope", "`pipeline_scope` and `global_scope`"],
    );

    for key in ["", "../k", "a b"] {
        assert_invalid(clients.secrets().put_secret(put(key, "hunter2")).await, &["key", key]);
    }

    let long = "k".repeat(257);
    assert_invalid(
        clients.secrets().put_secret(put(&long, "hunter2")).await,
        &["key", "257 bytes", "at most 256"],
    );
    assert_invalid(
        clients.secrets().put_secret(put("k", "")).await,
        &["value", "1 byte to 64 KiB"],
    );
    assert_invalid(
        clients.secrets().put_secret(put("k", "hunter\0")).await,
        &["value", "no NUL character"],
    );

    let huge = "hunter2".repeat(10_000);
    let status = clients.secrets().put_secret(put("k", &huge)).await.unwrap_err();
    assert!(
        status.message().contains("70000 bytes") && !format!("{status:?}").contains("hunter2"),
        "{status:?}"
    );

    let listed =
        v1::PutSecretRequest { allowed_namespaces: vec!["default".into()], ..put("k", "hunter2") };
    assert_invalid(
        clients.secrets().put_secret(listed).await,
        &["allowed_namespaces", "global secrets only"],
    );

    let ghost = v1::PutSecretRequest { scope: of_pipeline("ghost"), ..put("k", "hunter2") };
    assert_refused(clients.secrets().put_secret(ghost).await, Code::NotFound, "PIPELINE_NOT_FOUND");
    let odd = v1::PutSecretRequest { scope: of_pipeline("A b"), ..put("k", "hunter2") };
    assert_invalid(
        clients.secrets().put_secret(odd).await,
        &["scope.pipeline_scope.pipeline", "A b"],
    );
}

async fn a_task_gets_the_value_and_its_log_does_not(server: TestServer) {
    let clients = server.anybody();
    let mut task = shell("t", "echo \"the key is $KEY\"; test \"$KEY\" = hunter2");
    task.variables.insert("KEY".into(), "secret{{key}}".into());
    clients.register(pipeline("ci", vec![task])).await;
    clients.secrets().put_secret(put("key", "hunter2")).await.unwrap();
    clients.start("ci").await;
    let done = clients.finished("ci", 1).await;
    assert_eq!(done.run.unwrap().status(), v1::RunStatus::Successful);
    assert_eq!(log_of(&clients, 1).await, "the key is ***\n");
}

/// What task `t` of the run has printed, to its end.
pub(crate) async fn log_of(clients: &Clients, run: u64) -> String {
    let request = v1::StreamLogsRequest {
        namespace: "default".into(),
        pipeline: "ci".into(),
        run,
        task: "t".into(),
        follow: true,
        ..Default::default()
    };
    let mut stream = clients.task_runs().stream_logs(request).await.unwrap().into_inner();
    let mut log = Vec::new();
    while let Some(response) = stream.message().await.unwrap() {
        log.extend_from_slice(&response.chunk.unwrap().data);
    }
    String::from_utf8(log).unwrap()
}
