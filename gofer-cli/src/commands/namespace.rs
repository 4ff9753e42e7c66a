//! `gofer namespace`: dividers that own pipelines.

use clap::{Args, Subcommand};
use gofer_proto::v1::{
    CreateNamespaceRequest, DeleteNamespaceRequest, GetNamespaceRequest, ListNamespacesRequest, ListNamespacesResponse,
    Namespace, UpdateNamespaceRequest,
};

use super::paging::{PageArgs, note_more};
use crate::cli::Context;
use crate::client::unary;
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
    /// Shows one namespace
    #[command(after_help = "Examples:\n  gofer namespace get web")]
    Get {
        /// Its id
        id: String,
    },
    /// Changes a namespace's description
    #[command(after_help = "Examples:\n  gofer namespace update web --description 'web and mobile'")]
    Update {
        /// Its id
        id: String,
        /// What it is for
        #[arg(long)]
        description: String,
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
            let response = service.get_namespace(unary(GetNamespaceRequest { id })).await?.into_inner();
            out.show(&response, |response| response.namespace.as_ref().map_or_else(String::new, describe))
        }
        NamespaceCommand::Update { id, description } => {
            let request = UpdateNamespaceRequest { id: id.clone(), description };
            let response = service.update_namespace(unary(request)).await?.into_inner();
            out.done(&response, |_| format!("namespace `{id}` updated"))
        }
        NamespaceCommand::Delete { id } => {
            let response =
                service.delete_namespace(unary(DeleteNamespaceRequest { id: id.clone() })).await?.into_inner();
            out.done(&response, |_| format!("namespace `{id}` deleted"))
        }
    }
}

fn list(response: &ListNamespacesResponse) -> String {
    output::table(
        &["ID", "CREATED", "DESCRIPTION"],
        response.namespaces.iter().map(|namespace| {
            vec![namespace.id.clone(), format::time(namespace.created_at.as_ref()), namespace.description.clone()]
        }),
    )
}

fn describe(namespace: &Namespace) -> String {
    output::fields(&[
        ("id", namespace.id.clone()),
        ("description", namespace.description.clone()),
        ("created", format::time(namespace.created_at.as_ref())),
        ("updated", format::time(namespace.updated_at.as_ref())),
    ])
}
