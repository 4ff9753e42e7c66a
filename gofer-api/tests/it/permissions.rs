//! Every RPC of the contract with every kind of caller. What may be called is listed here a second
//! time, on purpose: a change of the table is a change of two places, and an RPC that is on no list
//! is for management tokens only.

use gofer_api::config::AuthMode;
use gofer_proto::v1;
use prost::Message;
use prost_reflect::{DynamicMessage, MessageDescriptor, MethodDescriptor, Value};
use tonic::Code;

use crate::harness::{TestServer, assert_refused, eventually, pipeline, shell};
use crate::raw;

const PUBLIC: &[&str] = &["BootstrapToken"];
const ANY_TOKEN: &[&str] = &["WhoAmI"];
const CLIENT_ANYWHERE: &[&str] = &["GetCommonTask", "ListCommonTasks", "GetSystemInfo"];
/// In the caller's own namespaces; also for runs.
const CLIENT_AND_RUN: &[&str] = &[
    "ListEvents",
    "FollowEvents",
    "GetNamespace",
    "GetRun",
    "ListRuns",
    "FollowRun",
    "GetRunTimeline",
    "GetTaskRun",
    "ListTaskRuns",
    "StreamLogs",
    "PutObject",
    "GetObject",
    "HeadObject",
    "ListObjects",
    "GetObjectUrl",
    "BeginObjectUpload",
    "CompleteObjectUpload",
];
/// About the run that calls.
const RUN_ALONE: &[&str] = &["MaskValue"];
/// Answered with what the caller may see, whatever it asks for.
const FILTERED: &[&str] = &["ListNamespaces"];
const CLIENT: &[&str] = &[
    "DeleteObject",
    "RegisterPipeline",
    "GetPipeline",
    "ListPipelines",
    "GetPipelineVersion",
    "ListPipelineVersions",
    "EnablePipeline",
    "DisablePipeline",
    "DeletePipeline",
    "StartRun",
    "CancelRun",
    "RetryRun",
    "PutSecret",
    "ListSecrets",
    "DeleteSecret",
    "CancelTaskRun",
    "Exec",
];

struct Who {
    name: &'static str,
    token: Option<String>,
    /// What a refusal is.
    refusal: Code,
    /// Whether a method's name, in the caller's own namespace or another, is for them.
    may: fn(&str, bool) -> bool,
}

fn lists(lists: &[&[&str]], method: &str) -> bool {
    lists.iter().any(|list| list.contains(&method))
}

fn nobody(method: &str, _own: bool) -> bool {
    lists(&[PUBLIC], method)
}

/// A token that is not good is worse than none.
fn none(_method: &str, _own: bool) -> bool {
    false
}

fn client(method: &str, own: bool) -> bool {
    lists(&[PUBLIC, ANY_TOKEN, CLIENT_ANYWHERE, FILTERED], method)
        || own && lists(&[CLIENT_AND_RUN, CLIENT], method)
}

fn run(method: &str, own: bool) -> bool {
    lists(&[PUBLIC, ANY_TOKEN, FILTERED, RUN_ALONE], method)
        || own && lists(&[CLIENT_AND_RUN], method)
}

/// Of an execution, or a run, nobody tells but itself.
fn management_may(method: &str, _: bool) -> bool {
    method != "ReportEnd" && !lists(&[RUN_ALONE], method)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_rpc_is_open_to_exactly_whom_it_should_be() {
    let server = TestServer::start_with(|config| config.server.auth = AuthMode::On).await;
    let callers = callers(&server).await;
    let methods: Vec<MethodDescriptor> = gofer_proto::json::descriptor_pool()
        .services()
        .flat_map(|service| service.methods().collect::<Vec<_>>())
        .collect();

    assert!(methods.len() > 50);
    let mut wrong = Vec::new();
    for who in &callers {
        for method in &methods {
            for namespace in ["default", "other"] {
                let path = format!("/{}/{}", method.parent_service().full_name(), method.name());
                let message = request(method.input(), namespace).encode_to_vec();
                let answer =
                    raw::call(&server.channel(), &path, who.token.as_deref(), message).await;
                let code = answer.map_or_else(|status| status.code(), |()| Code::Ok);
                let refused = matches!(code, Code::PermissionDenied | Code::Unauthenticated);
                let expected = (who.may)(method.name(), namespace == "default");

                if refused == expected || (refused && code != who.refusal) {
                    wrong.push(format!("{} calls {path} in `{namespace}`: {code:?}", who.name));
                }
            }
        }
    }

    assert!(wrong.is_empty(), "{wrong:#?}");
    let management = callers.last().unwrap().token.clone().unwrap();
    server.with_token(&management).kill("ci", 1).await;

    // The run is complete: its token is worth nothing any more.
    let run = callers.iter().find(|who| who.name == "a run").unwrap().token.clone().unwrap();
    let me = server.with_token(&run).tokens().who_am_i(v1::WhoAmIRequest {}).await;
    assert_refused(me, Code::Unauthenticated, "TOKEN_UNKNOWN");
}

/// Nobody, bad tokens, clients, a run, and management last, because it may really do what it calls.
async fn callers(server: &TestServer) -> Vec<Who> {
    let management = server.bootstrap().await.secret;
    let manager = server.with_token(&management);
    let other = v1::CreateNamespaceRequest { id: "other".into(), ..Default::default() };
    manager.namespaces().create_namespace(other).await.unwrap();

    let client_token = || async {
        let kind = v1::TokenKind::Client.into();
        let request = v1::CreateTokenRequest {
            kind,
            namespaces: vec!["default".into()],
            ..Default::default()
        };
        manager.tokens().create_token(request).await.unwrap().into_inner()
    };

    let (own, disabled) = (client_token().await, client_token().await);
    let id = disabled.token.unwrap().id;
    manager.tokens().disable_token(v1::DisableTokenRequest { id }).await.unwrap();

    let file = server.dir().join("token");
    let line = format!(
        "printf %s \"$GOFER_API_TOKEN\" > {0}.new; mv {0}.new {0}; exec sleep 600",
        file.display()
    );
    manager.register(pipeline("ci", vec![shell("t", &line)])).await;
    manager.start("ci").await;

    let run_token =
        eventually("the task has written its token", || async { std::fs::read_to_string(&file) })
            .await;

    let who = |name, token: Option<&str>, refusal, may| Who {
        name,
        token: token.map(str::to_owned),
        refusal,
        may,
    };

    let unknown = format!("gofer_t_{}", "x".repeat(43));
    vec![
        who("nobody", None, Code::Unauthenticated, nobody),
        who("an unknown token", Some(&unknown), Code::Unauthenticated, none),
        who("what looks like an execution", Some("a.b.c"), Code::Unauthenticated, none),
        who("an unknown run", Some("gofer_r_x"), Code::Unauthenticated, none),
        who("a disabled client", Some(&disabled.secret), Code::Unauthenticated, none),
        who("a client", Some(&own.secret), Code::PermissionDenied, client),
        who("a run", Some(&run_token), Code::PermissionDenied, run),
        who("management", Some(&management), Code::PermissionDenied, management_may),
    ]
}

/// A request about the namespace, in whatever way this message names one.
fn request(descriptor: MessageDescriptor, namespace: &str) -> DynamicMessage {
    let is_object = descriptor.name().contains("Object");
    let names_namespace = descriptor.name() == "GetNamespaceRequest";
    let mut message = DynamicMessage::new(descriptor.clone());

    for field in descriptor.fields() {
        let text = |text: &str| Value::String(text.to_owned());
        let value = match field.name() {
            "namespace" => text(namespace),
            "id" if names_namespace => text(namespace),
            "pipeline" if is_object => text("ci"),
            "pipeline" => text("absent"),
            "scope" | "pipeline_scope" | "header" => match field.kind() {
                prost_reflect::Kind::Message(inner) => Value::Message(request(inner, namespace)),
                _ => continue,
            },
            _ => continue,
        };

        message.set_field(&field, value);
    }

    message
}
