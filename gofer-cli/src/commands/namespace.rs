//! `gofer namespace`: dividers that own pipelines.

use clap::{Args, Subcommand};
use gofer_proto::v1::{
    CreateNamespaceRequest, DeleteNamespaceRequest, GetNamespaceRequest, ListNamespacesRequest,
    ListNamespacesResponse, Namespace, Quota, UpdateNamespaceQuotasRequest, UpdateNamespaceRequest,
};

use super::paging::{PageArgs, note_more};
use crate::client::unary;
use crate::context::Context;
use crate::errors::Failure;
use crate::{format, output};

/// Manages namespaces, the dividers that own pipelines
#[derive(Debug, Args)]
pub(crate) struct NamespaceArgs {
    #[command(subcommand)]
    command: NamespaceCommand,
}

#[derive(Debug, Subcommand)]
enum NamespaceCommand {
    /// Makes a namespace
    #[command(after_help = "Examples:\n  gofer namespace create web --description 'the web team'")]
    Create {
        /// Its id: lower-case letters, digits, `-` and `_`
        id: String,
        /// What it is for
        #[arg(long, default_value = "", hide_default_value = true)]
        description: String,
    },
    /// Lists the namespaces you may see
    #[command(after_help = "Examples:\n  gofer namespace list\n  gofer namespace list -o json")]
    List(PageArgs),
    /// Shows one namespace, with its quotas and their use
    ///
    /// A quota says how much of something the namespace may use. `*` marks limits that are its own;
    /// the others are the server's defaults.
    #[command(
        after_help = "Examples:\n  gofer namespace get web\n  gofer namespace get web -o json"
    )]
    Get {
        /// Its id
        id: String,
    },
    /// Changes a namespace's description or quotas
    #[command(
        after_help = "Examples:\n  gofer namespace update web --description 'web and mobile'\n  \
            gofer namespace update web --quota executions=16 --quota object_bytes=20GiB\n  \
            gofer namespace update web --quota executions=default"
    )]
    Update {
        /// Its id
        id: String,
        /// What it is for
        #[arg(long, required_unless_present = "quotas")]
        description: Option<String>,
        /// How much it may use of something; `default` takes a limit of its own away.
        /// `gofer namespace get` lists the names
        #[arg(long = "quota", value_name = "NAME=LIMIT", value_parser = quota)]
        quotas: Vec<(String, Option<u64>)>,
    },
    /// Removes a namespace that owns no pipeline any more
    #[command(after_help = "Examples:\n  gofer namespace delete web")]
    Delete {
        /// Its id
        id: String,
    },
}

pub(crate) async fn run(args: NamespaceArgs, context: &Context) -> Result<(), Failure> {
    let mut service = context.client().await?.namespaces();
    let out = &context.out;
    match args.command {
        NamespaceCommand::Create { id, description } => {
            let request = CreateNamespaceRequest { id: id.clone(), description };
            let response = service.create_namespace(unary(request)).await?.into_inner();
            out.done(&response, |_| format!("namespace `{id}` created"))
        }
        NamespaceCommand::List(page) => {
            let (namespaces, next_page_token) = page
                .collect(async |page_size, page_token| {
                    let request = ListNamespacesRequest { page_size, page_token };
                    let page = service.list_namespaces(unary(request)).await?.into_inner();
                    Ok((page.namespaces, page.next_page_token))
                })
                .await?;

            note_more(out, &next_page_token);
            out.show(&ListNamespacesResponse { namespaces, next_page_token }, list)
        }
        NamespaceCommand::Get { id } => {
            let response =
                service.get_namespace(unary(GetNamespaceRequest { id })).await?.into_inner();
            out.show(&response, |response| {
                let namespace = response.namespace.as_ref().map_or_else(String::new, describe);
                format!("{namespace}\n{}", quotas(&response.quotas))
            })
        }
        NamespaceCommand::Update { id, description, quotas } => {
            if !quotas.is_empty() {
                let mut request =
                    UpdateNamespaceQuotasRequest { id: id.clone(), ..Default::default() };
                for (name, limit) in quotas {
                    match limit {
                        Some(limit) => drop(request.limits.insert(name, limit)),
                        None => request.defaults.push(name),
                    }
                }

                let response = service.update_namespace_quotas(unary(request)).await?.into_inner();
                if description.is_none() {
                    return out.done(&response, |_| format!("namespace `{id}` updated"));
                }
            }

            let request = UpdateNamespaceRequest {
                id: id.clone(),
                description: description.unwrap_or_default(),
            };

            let response = service.update_namespace(unary(request)).await?.into_inner();
            out.done(&response, |_| format!("namespace `{id}` updated"))
        }
        NamespaceCommand::Delete { id } => {
            let response = service
                .delete_namespace(unary(DeleteNamespaceRequest { id: id.clone() }))
                .await?
                .into_inner();
            out.done(&response, |_| format!("namespace `{id}` deleted"))
        }
    }
}

fn list(response: &ListNamespacesResponse) -> String {
    output::table(
        &["ID", "CREATED", "DESCRIPTION"],
        response.namespaces.iter().map(|namespace| {
            vec![
                namespace.id.clone(),
                format::time(namespace.created_at.as_ref()),
                namespace.description.clone(),
            ]
        }),
    )
}

fn quotas(quotas: &[Quota]) -> String {
    let number = |quota: &Quota, number| match quota.unit.as_str() {
        "bytes" => format::size(number),
        _ => number.to_string(),
    };
    output::table(
        &["QUOTA", "USED", "LIMIT", "", "OF"],
        quotas.iter().map(|quota| {
            let own = if quota.overridden { "*" } else { "" };
            let (used, limit) = (number(quota, quota.used), number(quota, quota.limit));
            vec![quota.name.clone(), used, limit, own.to_owned(), quota.description.clone()]
        }),
    )
}

/// `NAME=LIMIT`, with a unit of bytes behind the number, or `NAME=default`.
fn quota(text: &str) -> Result<(String, Option<u64>), String> {
    const UNITS: [(&str, u32); 4] = [("KiB", 10), ("MiB", 20), ("GiB", 30), ("TiB", 40)];
    let (name, limit) =
        text.split_once('=').ok_or("a quota is given as NAME=LIMIT, such as `executions=16`")?;
    if limit == "default" {
        return Ok((name.to_owned(), None));
    }
    let unit = UNITS.iter().find_map(|(unit, shift)| Some((limit.strip_suffix(unit)?, *shift)));
    let (digits, shift) = unit.unwrap_or((limit, 0));
    let number = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(1 << shift));
    let number = number.ok_or(
        "a limit is a whole number, with KiB, MiB, GiB or TiB behind it if need be, or `default`",
    )?;
    Ok((name.to_owned(), Some(number)))
}

fn describe(namespace: &Namespace) -> String {
    output::fields(&[
        ("id", namespace.id.clone()),
        ("description", namespace.description.clone()),
        ("created", format::time(namespace.created_at.as_ref())),
        ("updated", format::time(namespace.updated_at.as_ref())),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_a_number_with_a_unit_or_the_default() {
        let read = |text: &str| quota(text).unwrap();
        assert_eq!(read("executions=16"), ("executions".to_owned(), Some(16)));
        assert_eq!(read("object_bytes=20GiB").1, Some(20 << 30));
        assert_eq!(read("log_bytes=default").1, None);
        for bad in [
            "executions",
            "executions=",
            "executions=-1",
            "executions=1GB",
            "object_bytes=99999999999TiB",
        ] {
            assert!(quota(bad).is_err(), "{bad}");
        }
    }
}
