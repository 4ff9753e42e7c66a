//! What a token may not do whatever the request names. It is decided before the body is read, so
//! that callers without the right cost no more than their headers.

use crate::auth::permissions::{self, Target};
use crate::auth::{Caller, Identity};
use crate::error::ApiError;

/// Whether there is anything that this caller may do by this method.
///
/// # Errors
/// [`ApiError::Forbidden`] with the reason.
pub(super) fn check(caller: &Caller) -> Result<(), ApiError> {
    let Caller { identity, rule } = caller;
    let all_that_a_token_may_have = match identity {
        Identity::Run(own) => Target::Object {
            namespace: own.namespace.as_str(),
            pipeline: own.pipeline.as_str(),
            run: own.run.0,
        },
        Identity::Client { namespaces, .. } => {
            // One whose namespaces are gone still sees what is nobody's.
            namespaces.first().map_or(Target::Namespace(""), |own| Target::Namespace(own.as_str()))
        }
        Identity::Anonymous
        | Identity::Anybody
        | Identity::Dev
        | Identity::Management(_)
        | Identity::Execution(_) => Target::Installation,
    };

    if permissions::check(*rule, identity, all_that_a_token_may_have).is_ok() {
        return Ok(());
    }

    match identity {
        Identity::Run(own) => Err(ApiError::Forbidden {
            message: format!(
                "the token of run `{own}` may read that run's namespace and use the objects of its \
                 pipeline; this call is not among that"
            ),
        }),
        // The rules' own words: nothing in them depends on what the request names.
        _ => permissions::check(*rule, identity, Target::Installation),
    }
}

#[cfg(test)]
mod tests {
    use gofer_core::id::{NamespaceId, RunKey};

    use super::*;
    use crate::auth::permissions::RULES;

    /// What is refused here is refused for every namespace, pipeline and run, the caller's own
    /// among them.
    #[test]
    fn nothing_is_refused_that_some_request_may_do() {
        let own = RunKey {
            namespace: NamespaceId::new("default").unwrap(),
            pipeline: gofer_core::PipelineId::new("ci").unwrap(),
            run: gofer_core::RunNumber(7),
        };

        let targets = [
            Target::Installation,
            Target::Namespace("default"),
            Target::Namespace("other"),
            Target::Namespace(""),
            Target::Object { namespace: "default", pipeline: "ci", run: 0 },
            Target::Object { namespace: "default", pipeline: "ci", run: 7 },
        ];
        let identities = [Identity::Run(own), Identity::Anonymous, Identity::Dev];
        let mut refused = 0;

        for (path, rule) in RULES {
            for identity in &identities {
                let caller = Caller { identity: identity.clone(), rule: *rule };
                let may = targets
                    .iter()
                    .any(|target| permissions::check(*rule, identity, *target).is_ok());
                assert_eq!(check(&caller).is_ok(), may, "{path}, {identity:?}");
                refused += usize::from(!may);
            }
        }

        assert!(refused > RULES.len());
    }
}
