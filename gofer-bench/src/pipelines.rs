//! The pipelines that are measured.

use gofer_proto::v1::{CustomTask, Dependency, DependencyCondition, PipelineSpec, TaskSpec, task_spec};

/// Tasks in a measured DAG.
pub(crate) const TASKS: usize = 40;

/// The two shapes of a DAG between which all others lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    /// Each task after the one before: what one task costs from end to end.
    Chain,
    /// All tasks at once: what can be done at the same time.
    Wide,
}

/// How a task says `true`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Work {
    /// The program itself.
    Direct,
    /// By way of a shell, as most real tasks.
    Shell,
}

impl Shape {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Chain => "chain",
            Self::Wide => "wide",
        }
    }
}

impl Work {
    pub(crate) fn command(self) -> &'static [&'static str] {
        match self {
            Self::Direct => &["true"],
            Self::Shell => &["sh", "-c", "true"],
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Direct => "true",
            Self::Shell => "sh -c true",
        }
    }
}

/// A pipeline of [`TASKS`] tasks.
pub(crate) fn dag(shape: Shape, work: Work) -> PipelineSpec {
    let mut tasks: Vec<TaskSpec> = (0..TASKS).map(|index| task(&format!("t{index}"), work.command())).collect();
    if shape == Shape::Chain {
        for (parent, child) in tasks.iter_mut().skip(1).enumerate() {
            let condition = DependencyCondition::Success.into();
            child.depends_on = vec![Dependency { task: format!("t{parent}"), condition }];
        }
    }
    let work = if work == Work::Shell { "-sh" } else { "" };
    PipelineSpec { name: format!("{}{work}", shape.name()), tasks, ..PipelineSpec::default() }
}

/// A pipeline of one task.
pub(crate) fn single(name: &str, command: &[&str]) -> PipelineSpec {
    PipelineSpec { name: name.to_owned(), tasks: vec![task("task", command)], ..PipelineSpec::default() }
}

/// The same DAG for make.
pub(crate) fn makefile(shape: Shape, work: Work) -> String {
    let targets: Vec<String> = (0..TASKS).map(|index| format!("t{index}")).collect();
    let all = targets.join(" ");
    let mut text = format!(".PHONY: all {all}\nall: {all}\n");
    for (index, target) in targets.iter().enumerate() {
        let parent = if shape == Shape::Chain && index > 0 { format!(" t{}", index - 1) } else { String::new() };
        text += &format!("{target}:{parent}\n\t@{}\n", work.name());
    }
    text
}

fn task(id: &str, command: &[&str]) -> TaskSpec {
    let command = command.iter().map(|word| (*word).to_owned()).collect();
    let kind = task_spec::Kind::Custom(CustomTask { command, ..CustomTask::default() });
    TaskSpec { id: id.to_owned(), kind: Some(kind), ..TaskSpec::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sides_have_the_same_edges() {
        let chain = dag(Shape::Chain, Work::Direct);
        assert_eq!(chain.tasks.len(), TASKS);
        assert_eq!(chain.tasks[39].depends_on[0].task, "t38");
        assert!(makefile(Shape::Chain, Work::Direct).contains("\nt39: t38\n\t@true\n"));
        assert!(dag(Shape::Wide, Work::Shell).tasks.iter().all(|task| task.depends_on.is_empty()));
        assert!(makefile(Shape::Wide, Work::Shell).contains("\nt39:\n\t@sh -c true\n"));
    }
}
