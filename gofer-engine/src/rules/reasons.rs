//! Reasons in words: what a person reads when a task or run ended otherwise than hoped.

use gofer_core::run::{CancelRequest, Reason, ReasonKind, TaskRun, TaskStatus};
use gofer_core::scheduler::FailureKind;

/// How many failed tasks a run's reason names.
const NAMED_TASKS: usize = 5;

pub(crate) fn of_failure(kind: FailureKind) -> ReasonKind {
    match kind {
        FailureKind::CommandNotFound => ReasonKind::CommandNotFound,
        FailureKind::ImageUnavailable => ReasonKind::ImageUnavailable,
        FailureKind::Refused | FailureKind::Setup => ReasonKind::SchedulerRefused,
    }
}

pub(crate) fn of_exit(code: i32, oom: bool, signal: Option<i32>) -> Reason {
    if oom {
        return Reason::new(
            ReasonKind::OutOfMemory,
            "killed by the kernel for want of memory; raise `memory_bytes`",
        );
    }
    match signal {
        Some(signal) => Reason::new(
            ReasonKind::Signal,
            format!("ended by signal {signal}{}", signal_name(signal)),
        ),
        None => Reason::new(ReasonKind::ExitCode, format!("ended with exit code {code}")),
    }
}

fn signal_name(signal: i32) -> &'static str {
    match signal {
        1 => " (SIGHUP)",
        2 => " (SIGINT)",
        4 => " (SIGILL)",
        6 => " (SIGABRT)",
        7 => " (SIGBUS)",
        8 => " (SIGFPE)",
        9 => " (SIGKILL)",
        11 => " (SIGSEGV)",
        13 => " (SIGPIPE)",
        15 => " (SIGTERM)",
        _ => "",
    }
}

pub(crate) fn cancelled(request: Option<&CancelRequest>) -> Reason {
    let message = match request {
        Some(request) if request.message.is_empty() => format!("cancelled by {}", request.by),
        Some(request) => format!("cancelled by {}: {}", request.by, request.message),
        None => "cancelled".to_owned(),
    };
    Reason::new(ReasonKind::Cancelled, message)
}

pub(crate) fn tasks_failed(tasks: &[&TaskRun]) -> Reason {
    let mut parts: Vec<String> = tasks
        .iter()
        .take(NAMED_TASKS)
        .map(|task| {
            let name = format!("task `{}`", task.task);
            match &task.reason {
                // Some name the task themselves; once is enough.
                Some(reason) if reason.message.starts_with(&name) => reason.message.clone(),
                Some(reason) => format!("{name}{} {}", separator(reason.kind), reason.message),
                None => format!("{name} failed"),
            }
        })
        .collect();

    if tasks.len() > NAMED_TASKS {
        parts.push(format!("and {} more", tasks.len() - NAMED_TASKS));
    }

    Reason::new(ReasonKind::TasksFailed, parts.join("; "))
}

/// What some reasons say of the task is a sentence of its own; the others go on after its name.
fn separator(kind: ReasonKind) -> &'static str {
    match kind {
        ReasonKind::SchedulerRefused | ReasonKind::Unsupported => ":",
        _ => "",
    }
}

pub(crate) fn word(status: TaskStatus) -> &'static str {
    match status {
        TaskStatus::Successful => "successfully",
        TaskStatus::Failed => "as failed",
        TaskStatus::Cancelled => "as cancelled",
        TaskStatus::Skipped => "as skipped",
        TaskStatus::TimedOut => "as timed out",
    }
}
