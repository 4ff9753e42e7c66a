//! Who may call what: one table for every RPC. What is not listed is denied.

use gofer_core::id::{NamespaceId, RunKey};

use super::identity::Identity;
use crate::error::ApiError;

/// For whom an RPC is. Management tokens, the server's own token, and anybody on a server that asks
/// for none, may call everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rule {
    /// Also without a token, through any proxy and under any name: it tells that a server is there.
    Health,
    /// Also without a token: it tells nothing of this installation, or protects itself.
    Public,
    /// Every valid token.
    AnyToken,
    /// Management tokens.
    Management,
    /// Every client token; the answer holds nothing of any namespace.
    Client,
    /// Client tokens in the namespaces they have.
    Namespace,
    /// As `Namespace`, and a run's own token in the run's namespace.
    NamespaceOrRun,
    /// As `NamespaceOrRun`; a request that names no namespace is answered with what the caller may
    /// see.
    Visible,
    /// As `Namespace`, and a run's own token for its pipeline and, at run level, for itself.
    NamespaceOrOwn,
    /// A run's own token, about itself; nobody else.
    OwnRun,
    /// An execution, about itself, with the token that its scheduler gave it; nobody else.
    Execution,
}

use Rule::{
    AnyToken, Client, Execution, Health, Management, Namespace, NamespaceOrOwn, NamespaceOrRun,
    OwnRun, Public, Visible,
};

/// The table. Sorted by service, in the order of the contract.
///
/// - Values of secrets are for management tokens alone: pipelines get them by interpolation, people
///   put new ones.
/// - A command in a running task sees the task's secrets. It is for those who may start and change
///   the namespace's pipelines, and so can have any task of it do the same.
/// - A run's token reads its namespace's runs and logs, and reads and writes the objects of its
///   pipeline and of itself. It starts nothing, runs no command in another task, changes no
///   pipeline and deletes nothing, so that a task gone wrong cannot do it either.
pub(crate) const RULES: &[(&str, Rule)] = &[
    ("/grpc.health.v1.Health/Check", Health),
    ("/grpc.health.v1.Health/List", Health),
    ("/grpc.health.v1.Health/Watch", Health),
    ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", Public),
    ("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", Public),
    ("/gofer.v1.CommonTaskService/InstallCommonTask", Management),
    ("/gofer.v1.CommonTaskService/GetCommonTask", Client),
    ("/gofer.v1.CommonTaskService/ListCommonTasks", Client),
    ("/gofer.v1.CommonTaskService/UpdateCommonTask", Management),
    ("/gofer.v1.CommonTaskService/UninstallCommonTask", Management),
    ("/gofer.v1.EventService/ListEvents", Visible),
    ("/gofer.v1.EventService/FollowEvents", Visible),
    ("/gofer.v1.ExecutionService/ReportEnd", Execution),
    ("/gofer.v1.NamespaceService/CreateNamespace", Management),
    ("/gofer.v1.NamespaceService/GetNamespace", NamespaceOrRun),
    ("/gofer.v1.NamespaceService/ListNamespaces", Visible),
    ("/gofer.v1.NamespaceService/UpdateNamespace", Management),
    ("/gofer.v1.NamespaceService/UpdateNamespaceQuotas", Management),
    ("/gofer.v1.NamespaceService/DeleteNamespace", Management),
    ("/gofer.v1.ObjectService/PutObject", NamespaceOrOwn),
    ("/gofer.v1.ObjectService/GetObject", NamespaceOrOwn),
    ("/gofer.v1.ObjectService/HeadObject", NamespaceOrOwn),
    ("/gofer.v1.ObjectService/ListObjects", NamespaceOrOwn),
    ("/gofer.v1.ObjectService/DeleteObject", Namespace),
    ("/gofer.v1.ObjectService/GetObjectUrl", NamespaceOrOwn),
    ("/gofer.v1.ObjectService/BeginObjectUpload", NamespaceOrOwn),
    ("/gofer.v1.ObjectService/CompleteObjectUpload", NamespaceOrOwn),
    ("/gofer.v1.PipelineService/RegisterPipeline", Namespace),
    ("/gofer.v1.PipelineService/GetPipeline", Namespace),
    ("/gofer.v1.PipelineService/ListPipelines", Namespace),
    ("/gofer.v1.PipelineService/GetPipelineVersion", Namespace),
    ("/gofer.v1.PipelineService/ListPipelineVersions", Namespace),
    ("/gofer.v1.PipelineService/EnablePipeline", Namespace),
    ("/gofer.v1.PipelineService/DisablePipeline", Namespace),
    ("/gofer.v1.PipelineService/DeletePipeline", Namespace),
    ("/gofer.v1.RunService/StartRun", Namespace),
    ("/gofer.v1.RunService/GetRun", NamespaceOrRun),
    ("/gofer.v1.RunService/ListRuns", NamespaceOrRun),
    ("/gofer.v1.RunService/CancelRun", Namespace),
    ("/gofer.v1.RunService/RetryRun", Namespace),
    ("/gofer.v1.RunService/FollowRun", NamespaceOrRun),
    ("/gofer.v1.RunService/GetRunTimeline", NamespaceOrRun),
    ("/gofer.v1.SecretService/PutSecret", Namespace),
    ("/gofer.v1.SecretService/GetSecret", Management),
    ("/gofer.v1.SecretService/ListSecrets", Namespace),
    ("/gofer.v1.SecretService/DeleteSecret", Namespace),
    ("/gofer.v1.SecretService/MaskValue", OwnRun),
    ("/gofer.v1.SystemService/GetSystemInfo", Client),
    ("/gofer.v1.TaskRunService/GetTaskRun", NamespaceOrRun),
    ("/gofer.v1.TaskRunService/ListTaskRuns", NamespaceOrRun),
    ("/gofer.v1.TaskRunService/CancelTaskRun", Namespace),
    ("/gofer.v1.TaskRunService/StreamLogs", NamespaceOrRun),
    ("/gofer.v1.TaskRunService/Exec", Namespace),
    ("/gofer.v1.TokenService/BootstrapToken", Public),
    ("/gofer.v1.TokenService/CreateToken", Management),
    ("/gofer.v1.TokenService/ListTokens", Management),
    ("/gofer.v1.TokenService/DisableToken", Management),
    ("/gofer.v1.TokenService/EnableToken", Management),
    ("/gofer.v1.TokenService/DeleteToken", Management),
    ("/gofer.v1.TokenService/WhoAmI", AnyToken),
    ("/gofer.v1.TriggerService/InstallTrigger", Management),
    ("/gofer.v1.TriggerService/GetTrigger", Management),
    ("/gofer.v1.TriggerService/ListTriggers", Management),
    ("/gofer.v1.TriggerService/UpdateTrigger", Management),
    ("/gofer.v1.TriggerService/UninstallTrigger", Management),
    ("/gofer.v1.TriggerService/EnableTrigger", Management),
    ("/gofer.v1.TriggerService/DisableTrigger", Management),
    ("/gofer.v1.TriggerService/ListTriggerSubscriptions", Management),
    ("/gofer.v1.TriggerService/ConnectTrigger", Management),
];

/// The rule of an RPC's path; `None` is denied to everybody.
pub(crate) fn rule(path: &str) -> Option<Rule> {
    RULES.iter().find(|(listed, _)| *listed == path).map(|(_, rule)| *rule)
}

/// What a request is about, as far as permission goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Target<'a> {
    /// Nothing that belongs to a namespace.
    Installation,
    /// Something of this namespace; empty when the request leaves it open.
    Namespace(&'a str),
    /// An object of a pipeline, or with `run` not 0 of a run.
    Object {
        /// The pipeline's namespace.
        namespace: &'a str,
        /// The pipeline.
        pipeline: &'a str,
        /// The run, or 0.
        run: u64,
    },
}

impl Target<'_> {
    fn namespace(&self) -> Option<&str> {
        match self {
            Self::Installation => None,
            Self::Namespace(namespace) | Self::Object { namespace, .. } => Some(namespace),
        }
    }
}

/// Whether this caller may do this to that.
///
/// # Errors
/// [`ApiError::Forbidden`] with the reason.
pub(crate) fn check(rule: Rule, identity: &Identity, target: Target<'_>) -> Result<(), ApiError> {
    let allowed = match (rule, identity) {
        (Execution, identity) => matches!(identity, Identity::Execution(_)),
        (_, Identity::Execution(_)) => false,
        (OwnRun, identity) => matches!(identity, Identity::Run(_)),
        (Health | Public, _) | (_, Identity::Anybody | Identity::Dev | Identity::Management(_)) => {
            true
        }
        (_, Identity::Anonymous) => false,
        (AnyToken, _) => true,
        (Management, Identity::Client { .. } | Identity::Run(_)) => false,
        (Client, Identity::Client { .. }) => true,
        (Client | Namespace, Identity::Run(_)) => false,
        (Visible, _) if target.namespace() == Some("") => true,
        (
            Namespace | NamespaceOrRun | Visible | NamespaceOrOwn,
            Identity::Client { namespaces, .. },
        ) => target
            .namespace()
            .is_some_and(|wanted| namespaces.iter().any(|own| own.as_str() == wanted)),
        (NamespaceOrRun | Visible, Identity::Run(own)) => {
            target.namespace() == Some(own.namespace.as_str())
        }
        (NamespaceOrOwn, Identity::Run(own)) => is_own_object(own, target),
    };
    if allowed {
        Ok(())
    } else {
        Err(ApiError::Forbidden { message: refusal(rule, identity, target) })
    }
}

fn is_own_object(own: &RunKey, target: Target<'_>) -> bool {
    matches!(target, Target::Object { namespace, pipeline, run }
        if namespace == own.namespace.as_str() && pipeline == own.pipeline.as_str() && (run == 0 || run == own.run.0))
}

fn refusal(rule: Rule, identity: &Identity, target: Target<'_>) -> String {
    let wanted = match target {
        Target::Installation => String::new(),
        Target::Namespace(namespace) => format!("; the request names namespace `{namespace}`"),
        Target::Object { namespace, pipeline, run } => {
            format!("; the request names `{namespace}/{pipeline}`, run {run}")
        }
    };
    match identity {
        _ if rule == Execution => {
            "this call is for an execution about itself, with the token that its scheduler gave it"
                .to_owned()
        }
        _ if rule == OwnRun => "this call is for the token of a run, about itself".to_owned(),
        _ if rule == Management || target == Target::Installation => {
            "this call is for management tokens only".to_owned()
        }
        Identity::Client { namespaces, .. } => {
            format!("this token is for namespaces {}{wanted}", list(namespaces))
        }
        Identity::Run(own) => {
            format!(
                "the token of run `{own}` may read that run's namespace and use the objects of its \
                 pipeline{wanted}"
            )
        }
        Identity::Anonymous
        | Identity::Anybody
        | Identity::Dev
        | Identity::Management(_)
        | Identity::Execution(_) => "this call needs a token".to_owned(),
    }
}

fn list(namespaces: &[NamespaceId]) -> String {
    namespaces.iter().take(10).map(|id| format!("`{id}`")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn contract_rpcs() -> HashSet<String> {
        gofer_proto::json::descriptor_pool()
            .services()
            .flat_map(|service| service.methods().collect::<Vec<_>>())
            .map(|method| format!("/{}/{}", method.parent_service().full_name(), method.name()))
            .collect()
    }

    #[test]
    fn every_rpc_of_the_contract_has_one_rule_and_no_rule_is_stale() {
        let listed: HashSet<String> = RULES.iter().map(|(path, _)| (*path).to_owned()).collect();
        assert_eq!(listed.len(), RULES.len(), "a path is listed twice");
        let contract = contract_rpcs();
        let missing: Vec<_> = contract.difference(&listed).collect();
        assert!(missing.is_empty(), "no rule in permissions.rs for {missing:?}");
        let stale: Vec<_> =
            listed.difference(&contract).filter(|path| path.starts_with("/gofer.")).collect();
        assert!(stale.is_empty(), "rules for what the contract does not have: {stale:?}");
    }

    #[test]
    fn what_is_not_listed_is_denied() {
        assert_eq!(rule("/gofer.v1.RunService/Invented"), None);
        assert_eq!(rule(""), None);
    }

    #[test]
    fn a_run_reaches_its_own_objects_only() {
        let own = RunKey {
            namespace: NamespaceId::new("default").unwrap(),
            pipeline: gofer_core::PipelineId::new("ci").unwrap(),
            run: gofer_core::RunNumber(7),
        };
        let identity = Identity::Run(own);
        let may = |namespace, pipeline, run| {
            check(NamespaceOrOwn, &identity, Target::Object { namespace, pipeline, run }).is_ok()
        };
        assert!(may("default", "ci", 0) && may("default", "ci", 7));
        assert!(!may("default", "ci", 8) && !may("default", "other", 0) && !may("other", "ci", 7));
        assert!(check(NamespaceOrRun, &identity, Target::Namespace("default")).is_ok());
        assert!(check(NamespaceOrRun, &identity, Target::Namespace("")).is_err());
        assert!(check(Namespace, &identity, Target::Namespace("default")).is_err());
    }
}
