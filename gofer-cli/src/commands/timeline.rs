//! Where the time of a run went, as a table.

use gofer_proto::v1::TimelineSpan;

use crate::{format, output};

/// One line per span; times count from the run's creation.
pub(crate) fn table(spans: &[TimelineSpan]) -> String {
    let begin = spans.first().and_then(|span| span.began_at.as_ref());
    output::table(
        &["TIME OF", "ATTEMPT", "PHASE", "FROM", "TOOK", "WHY"],
        spans.iter().map(|span| {
            vec![
                if span.task.is_empty() { "the run".to_owned() } else { span.task.clone() },
                if span.attempt == 0 { String::new() } else { span.attempt.to_string() },
                format::word(span.phase().as_str_name(), "TIMELINE_PHASE_"),
                format!("+{}", format::took(begin, span.began_at.as_ref())),
                match span.ended_at {
                    Some(_) => format::took(span.began_at.as_ref(), span.ended_at.as_ref()),
                    None => format!("{} so far", format::took(span.began_at.as_ref(), None)),
                },
                span.why.clone(),
            ]
        }),
    )
}

#[cfg(test)]
mod tests {
    use gofer_proto::v1::TimelinePhase;
    use prost_types::Timestamp;

    use super::*;

    #[test]
    fn a_line_says_whose_time_went_where_and_why() {
        let at = |seconds| Some(Timestamp { seconds, nanos: 0 });
        let span = |task: &str, phase: TimelinePhase, from, to, why: &str| TimelineSpan {
            task: task.into(),
            attempt: u32::from(!task.is_empty()),
            phase: phase.into(),
            began_at: at(from),
            ended_at: at(to),
            why: why.into(),
        };

        let spans = [
            span("", TimelinePhase::Queued, 100, 102, "waited"),
            span("build", TimelinePhase::WaitingForSlot, 102, 172, "64 of 64"),
        ];
        let text = table(&spans);
        let words: Vec<Vec<&str>> =
            text.lines().skip(1).map(|line| line.split_whitespace().collect()).collect();

        assert_eq!(words[0], ["the", "run", "queued", "+0.0s", "2.0s", "waited"]);
        assert_eq!(
            words[1],
            ["build", "1", "waiting", "for", "slot", "+2.0s", "1m10s", "64", "of", "64"]
        );
    }
}
