//! Variables from outside: text, unless the pipeline says otherwise.

use gofer_proto::v1;
use tonic::{Code, Status};

use crate::harness::{Clients, TestServer, assert_invalid, on_each_database, pipeline, shell};
use crate::secrets::{log_of, put};

on_each_database!(
    a_runs_value_is_text_whatever_it_looks_like,
    a_pipeline_may_take_templates_from_a_run,
    names_that_choose_code_are_refused_unless_listed,
    a_repeated_run_is_judged_by_its_own_version,
);

async fn start(clients: &Clients, variables: &[(&str, &str)]) -> Result<v1::Run, Status> {
    let variables =
        variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let request = v1::StartRunRequest {
        namespace: "default".into(),
        pipeline: "ci".into(),
        variables,
        ..Default::default()
    };
    Ok(clients.runs().start_run(request).await?.into_inner().run.unwrap())
}

fn listed(name: &str, template: bool) -> v1::RunVariable {
    v1::RunVariable { name: name.into(), template }
}

/// A pipeline that shows the variable, with a default of its own.
fn showing(name: &str, run_variables: Vec<v1::RunVariable>) -> v1::PipelineSpec {
    // In hexadecimal: the log is masked.
    let mut spec = pipeline(
        "ci",
        vec![shell("t", &format!("printf %s \"${name}\" | od -An -v -tx1 | tr -d ' \\n'"))],
    );
    spec.variables.insert(name.to_owned(), "main".into());
    v1::PipelineSpec { run_variables, ..spec }
}

async fn shown(clients: &Clients, run: u64) -> String {
    assert_eq!(clients.finished("ci", run).await.run.unwrap().status(), v1::RunStatus::Successful);
    let digits = log_of(clients, run).await;
    let bytes = digits
        .as_bytes()
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16));
    String::from_utf8(bytes.collect::<Result<_, _>>().unwrap()).unwrap()
}

async fn a_runs_value_is_text_whatever_it_looks_like(server: TestServer) {
    let clients = server.anybody();
    clients.register(showing("BRANCH", Vec::new())).await;
    clients.secrets().put_secret(put("k", "CANARYinj-1")).await.unwrap();

    for (run, value) in [
        (1, "secret{{k}}"),
        (2, "x-run_object{{o}}-pipeline_object{{o}}"),
        (3, "secret{{ no key! }}"),
    ] {
        start(&clients, &[("BRANCH", value)]).await.unwrap();
        assert_eq!(shown(&clients, run).await, value);
    }

    let retry = v1::RetryRunRequest {
        namespace: "default".into(),
        pipeline: "ci".into(),
        run: 1,
        from_failed: false,
    };

    clients.runs().retry_run(retry).await.unwrap();
    assert_eq!(shown(&clients, 4).await, "secret{{k}}");
}

async fn a_pipeline_may_take_templates_from_a_run(server: TestServer) {
    let clients = server.anybody();
    clients.register(showing("BRANCH", vec![listed("BRANCH", true), listed("OTHER", false)])).await;
    clients.secrets().put_secret(put("k", "CANARYinj-1")).await.unwrap();
    start(&clients, &[("BRANCH", "<secret{{k}}>"), ("OTHER", "secret{{k}}")]).await.unwrap();
    assert_eq!(shown(&clients, 1).await, "<CANARYinj-1>");

    assert_invalid(
        start(&clients, &[("BRANCH", "secret{{no key!}}")]).await,
        &["variables[BRANCH]", "no key!"],
    );
    let unlisted = start(&clients, &[("THIRD", "x")]).await;
    assert_invalid(unlisted, &["variables", "THIRD", "`BRANCH`, `OTHER`"]);
}

async fn names_that_choose_code_are_refused_unless_listed(server: TestServer) {
    let clients = server.anybody();
    clients.register(showing("BASH_ENV", Vec::new())).await;
    for name in ["LD_PRELOAD", "PATH", "BASH_ENV", "HOME", "ENV", "https_proxy", "GIT_SSH_COMMAND"]
    {
        assert_invalid(
            start(&clients, &[(name, "/tmp/x")]).await,
            &["variables", name, "run_variables"],
        );
    }

    clients.register(showing("BASH_ENV", vec![listed("BASH_ENV", false)])).await;
    start(&clients, &[("BASH_ENV", "/tmp/x")]).await.unwrap();
    assert_eq!(shown(&clients, 1).await, "/tmp/x");

    let twice =
        showing("A", vec![listed("A", false), listed("A", true), listed("GOFER_RUN", false)]);
    let refused = clients.try_register(twice).await;
    assert_invalid(
        refused,
        &["run_variables[1].name", "listed once", "run_variables[2].name", "`GOFER_`"],
    );
}

/// A repetition is of the same version: what that lists counts, and not what the latest one does.
async fn a_repeated_run_is_judged_by_its_own_version(server: TestServer) {
    let clients = server.anybody();
    clients.register(showing("A", vec![listed("PATH", false), listed("A", false)])).await;
    let path = std::env::var("PATH").unwrap();
    start(&clients, &[("PATH", &path), ("A", "1")]).await.unwrap();
    assert_eq!(shown(&clients, 1).await, "1");
    clients.register(showing("A", vec![listed("B", false)])).await;

    let retry = v1::RetryRunRequest {
        namespace: "default".into(),
        pipeline: "ci".into(),
        run: 1,
        from_failed: false,
    };

    let again = clients.runs().retry_run(retry).await.unwrap().into_inner().run.unwrap();
    assert_eq!((again.version, shown(&clients, again.run).await), (1, "1".to_owned()));
    let status = start(&clients, &[("A", "1")]).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
}
