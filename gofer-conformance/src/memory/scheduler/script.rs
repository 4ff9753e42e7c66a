//! The little language that executions of the memory scheduler are written in.

use gofer_core::scheduler::{ExecutionSpec, FailureKind, LogStream};

/// One word of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    Print(LogStream, Vec<u8>),
    PrintLine(usize),
    PrintEnv(String),
    PrintWorkingDir,
    Mark(String),
    Wait(String),
    SleepMs(u64),
    Forever,
    Queue(String),
    IgnoreStop,
    OnStop(String),
    Exit(i32),
    Die(i32),
    OutOfMemory,
    Fail(FailureKind, String),
}

/// The steps of a spec's entrypoint and command.
///
/// The error is the first word that is no step.
pub(super) fn parse(spec: &ExecutionSpec) -> Result<Vec<Step>, String> {
    spec.entrypoint
        .iter()
        .chain(&spec.command)
        .map(|word| step(word).ok_or_else(|| word.clone()))
        .collect()
}

fn step(word: &str) -> Option<Step> {
    let (verb, rest) = word.split_once(' ').unwrap_or((word, ""));
    let text = || rest.to_owned();
    Some(match verb {
        "print" => Step::Print(LogStream::Stdout, format!("{rest}\n").into_bytes()),
        "eprint" => Step::Print(LogStream::Stderr, format!("{rest}\n").into_bytes()),
        "print-hex" => Step::Print(LogStream::Stdout, unhex(rest)?),
        "eprint-hex" => Step::Print(LogStream::Stderr, unhex(rest)?),
        "print-line" => Step::PrintLine(rest.parse().ok()?),
        "print-env" => Step::PrintEnv(text()),
        "print-working-dir" => Step::PrintWorkingDir,
        "mark" => Step::Mark(text()),
        "wait" => Step::Wait(text()),
        "sleep-ms" => Step::SleepMs(rest.parse().ok()?),
        "forever" => Step::Forever,
        "queue" => Step::Queue(text()),
        "ignore-stop" => Step::IgnoreStop,
        "on-stop" => Step::OnStop(text()),
        "exit" => Step::Exit(rest.parse().ok()?),
        "die" => Step::Die(rest.parse().ok()?),
        "out-of-memory" => Step::OutOfMemory,
        "image-unavailable" => Step::Fail(FailureKind::ImageUnavailable, text()),
        "refuse" => Step::Fail(FailureKind::Refused, text()),
        "fail-setup" => Step::Fail(FailureKind::Setup, text()),
        _ => return None,
    })
}

/// Bytes as the steps `print-hex` and `eprint-hex` take them.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> = text
        .chars()
        .map(|digit| digit.to_digit(16).and_then(|value| u8::try_from(value).ok()))
        .collect::<Option<_>>()?;
    let pairs = digits.chunks_exact(2);
    pairs.remainder().is_empty().then(|| pairs.map(|pair| pair[0] * 16 + pair[1]).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_steps_or_unknown() {
        assert_eq!(step("exit 3"), Some(Step::Exit(3)));
        assert_eq!(
            step("print  two words"),
            Some(Step::Print(LogStream::Stdout, b" two words\n".to_vec()))
        );
        for unknown in ["", "exit", "exit three", "true", "print-hex abc", "print-hex zz"] {
            assert_eq!(step(unknown), None, "{unknown:?} was taken");
        }
    }

    #[test]
    fn hex_round_trips() {
        let bytes: Vec<u8> = (0..=255).collect();
        assert_eq!(unhex(&hex(&bytes)), Some(bytes));
    }
}
