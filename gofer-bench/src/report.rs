//! The result: one table, or the same as JSON.

use std::fmt::Write as _;

use serde::Serialize;

use crate::machine::Machine;
use crate::stats::{Summary, median_ratio};

/// Everything that was measured, and on what.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    machine: Machine,
    rows: Vec<Row>,
}

/// The samples of one subject in one measure.
#[derive(Debug, Serialize)]
struct Row {
    measure: String,
    subject: String,
    unit: Unit,
    #[serde(flatten)]
    summary: Summary,
    /// How many times the anchor of the same measure; absent for anchors and where there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    to_anchor: Option<f64>,
}

/// The unit of a sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Unit {
    Milliseconds,
    PerSecond,
    Kibibytes,
    Mebibytes,
    MebibytesPerSecond,
}

/// The samples of what is measured.
#[derive(Debug, Clone, Default)]
pub(crate) struct Samples {
    pub(crate) subject: String,
    pub(crate) values: Vec<f64>,
}

impl Samples {
    pub(crate) fn new(subject: impl Into<String>) -> Self {
        Self { subject: subject.into(), values: Vec::new() }
    }

    pub(crate) fn of(subject: impl Into<String>, values: impl IntoIterator<Item = f64>) -> Self {
        Self { subject: subject.into(), values: values.into_iter().collect() }
    }
}

impl Report {
    pub(crate) fn new(machine: Machine) -> Self {
        Self { machine, rows: Vec::new() }
    }

    /// Adds a measure: the anchor, if there is one, and what is compared with it. Subjects without
    /// samples are left out.
    pub(crate) fn add(
        &mut self,
        measure: &str,
        unit: Unit,
        anchor: Option<&Samples>,
        subjects: &[Samples],
    ) {
        let row = |samples: &Samples, to_anchor| {
            let summary = Summary::of(&samples.values)?;
            Some(Row {
                measure: measure.to_owned(),
                subject: samples.subject.clone(),
                unit,
                summary,
                to_anchor,
            })
        };
        self.rows.extend(anchor.and_then(|anchor| row(anchor, None)));
        let compared = |subject: &Samples| median_ratio(&subject.values, &anchor?.values);
        self.rows.extend(subjects.iter().filter_map(|subject| row(subject, compared(subject))));
    }

    pub(crate) fn to_markdown(&self) -> String {
        let mut text = self.machine.to_markdown();
        text += "\n| measure | subject | n | min | p50 | p90 | p99 | max | to anchor |\n";
        text += "|---|---|--:|--:|--:|--:|--:|--:|--:|\n";
        for row in &self.rows {
            let Summary { n, min, p50, p90, p99, max } = row.summary;
            let _ = write!(text, "| {} | {} | {n} |", row.measure, row.subject);
            for value in [min, p50, p90, p99, max] {
                let _ = write!(text, " {} |", row.unit.show(value));
            }
            let ratio = row.to_anchor.map_or_else(String::new, |ratio| format!("{ratio:.2}x"));
            let _ = writeln!(text, " {ratio} |");
        }
        text
    }
}

impl Unit {
    fn show(self, value: f64) -> String {
        match self {
            Self::Milliseconds if value < 10.0 => format!("{value:.2} ms"),
            Self::Milliseconds => format!("{value:.1} ms"),
            Self::PerSecond => format!("{value:.0}/s"),
            Self::Kibibytes => format!("{value:.2} KiB"),
            Self::Mebibytes => format!("{value:.1} MiB"),
            Self::MebibytesPerSecond => format!("{value:.0} MiB/s"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_measure_is_a_row_per_subject_with_its_ratio() {
        let mut report = Report::new(Machine::default());
        let anchor = Samples::of("make", [20.0, 10.0]);
        report.add(
            "chain",
            Unit::Milliseconds,
            Some(&anchor),
            &[Samples::of("gofer", [30.0, 15.0]), Samples::new("none")],
        );

        let table = report.to_markdown();
        let rows: Vec<&str> = table.lines().filter(|line| line.starts_with("| chain")).collect();
        let expected = [
            "| chain | make | 2 | 10.0 ms | 10.0 ms | 20.0 ms | 20.0 ms | 20.0 ms |  |",
            "| chain | gofer | 2 | 15.0 ms | 15.0 ms | 30.0 ms | 30.0 ms | 30.0 ms | 1.50x |",
        ];

        assert_eq!(rows, expected);
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["rows"][1]["to_anchor"], 1.5);
        assert_eq!(json["rows"][0]["unit"], "milliseconds");
    }
}
