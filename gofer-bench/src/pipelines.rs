//! The pipelines that are measured.

use anyhow::Result;
use gofer_core::{PipelineId, TaskId, pipeline};
use gofer_proto::v1::{
    CustomTask, Dependency, DependencyCondition, PipelineSpec, TaskSpec, task_spec,
};

/// Tasks in the DAGs of `make`.
pub(crate) const TASKS: usize = 40;
/// Most parents of a task in a random DAG.
const PARENTS: u64 = 3;
/// Any number: the same DAG in every run.
const SEED: u64 = 42;

/// The shape of a DAG.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    /// Each task after the one before: what one task costs from end to end.
    Chain,
    /// All tasks at once: what can be done at the same time.
    Wide,
    /// Each task after up to three earlier ones, the same in every run.
    Random,
}

/// How a task says `true`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Work {
    /// As the program, without a shell.
    Direct,
    /// By way of a shell, as most real tasks.
    Shell,
}

impl Shape {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Chain => "chain",
            Self::Wide => "wide",
            Self::Random => "random",
        }
    }

    /// For each task those it waits for.
    fn parents(self, tasks: usize) -> Vec<Vec<usize>> {
        let mut random = SEED;
        let mut up_to_three = |index: usize| {
            let mut below = |bound: u64| {
                random = random
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                (random >> 33) % bound
            };

            let count = if index == 0 { 0 } else { below(PARENTS + 1) };
            let mut parents: Vec<usize> =
                (0..count).map(|_| below(index as u64) as usize).collect();
            parents.sort_unstable();
            parents.dedup();

            parents
        };

        (0..tasks)
            .map(|index| match self {
                Self::Chain => index.checked_sub(1).into_iter().collect(),
                Self::Wide => Vec::new(),
                Self::Random => up_to_three(index),
            })
            .collect()
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

/// One DAG, for Gofer and for make.
#[derive(Debug, Clone)]
pub(crate) struct Dag {
    name: String,
    work: Work,
    parents: Vec<Vec<usize>>,
}

impl Dag {
    pub(crate) fn new(shape: Shape, work: Work, tasks: usize) -> Self {
        let suffix = if work == Work::Shell { "-sh" } else { "" };
        Self {
            name: format!("{}-{tasks}{suffix}", shape.name()),
            work,
            parents: shape.parents(tasks),
        }
    }

    /// The same DAG as Gofer's spec.
    pub(crate) fn spec(&self) -> PipelineSpec {
        let condition = DependencyCondition::Success.into();
        let after = |parent: &usize| Dependency { task: format!("t{parent}"), condition };
        let one = |(index, parents): (usize, &Vec<usize>)| TaskSpec {
            depends_on: parents.iter().map(after).collect(),
            ..task(&format!("t{index}"), self.work.command())
        };
        let tasks = self.parents.iter().enumerate().map(one).collect();
        PipelineSpec { name: self.name.clone(), tasks, ..PipelineSpec::default() }
    }

    /// The same for make.
    pub(crate) fn makefile(&self) -> String {
        let targets: Vec<String> =
            (0..self.parents.len()).map(|index| format!("t{index}")).collect();
        let all = targets.join(" ");
        let mut text = format!(".PHONY: all {all}\nall: {all}\n");
        for (target, parents) in targets.iter().zip(&self.parents) {
            let parents: String = parents.iter().map(|parent| format!(" t{parent}")).collect();
            text += &format!("{target}:{parents}\n\t@{}\n", self.work.name());
        }
        text
    }

    /// As the database keeps it, with a name of the caller's.
    pub(crate) fn stored_spec(&self, name: &str) -> Result<pipeline::PipelineSpec> {
        let condition = pipeline::Condition::Success;
        let id = |index: usize| TaskId::new(format!("t{index}"));
        let task = |(index, parents): (usize, &Vec<usize>)| {
            let command = self.work.command().iter().map(|word| (*word).to_owned()).collect();
            let after =
                |parent: &usize| anyhow::Ok(pipeline::Dependency { task: id(*parent)?, condition });

            anyhow::Ok(pipeline::TaskSpec {
                id: id(index)?,
                description: String::new(),
                kind: pipeline::TaskKind::Custom(pipeline::CustomTask {
                    command,
                    ..Default::default()
                }),
                depends_on: parents.iter().map(after).collect::<Result<_>>()?,
                variables: Default::default(),
                retries: Default::default(),
                timeout: None,
                start_timeout: None,
                resources: Default::default(),
                continue_on_failure: false,
            })
        };

        Ok(pipeline::PipelineSpec {
            name: PipelineId::new(name)?,
            description: String::new(),
            tasks: self.parents.iter().enumerate().map(task).collect::<Result<_>>()?,
            variables: Default::default(),
            run_variables: Vec::new(),
            parallelism: None,
            overlap: Default::default(),
            subscriptions: Vec::new(),
            sdk: String::new(),
        })
    }
}

/// A pipeline of one task.
pub(crate) fn single(name: &str, command: &[&str]) -> PipelineSpec {
    PipelineSpec {
        name: name.to_owned(),
        tasks: vec![task("task", command)],
        ..PipelineSpec::default()
    }
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
        let chain = Dag::new(Shape::Chain, Work::Direct, TASKS);
        assert_eq!(chain.spec().tasks.len(), TASKS);
        assert_eq!(chain.spec().tasks[39].depends_on[0].task, "t38");
        assert!(chain.makefile().contains("\nt39: t38\n\t@true\n"));
        let wide = Dag::new(Shape::Wide, Work::Shell, TASKS);
        assert!(wide.spec().tasks.iter().all(|task| task.depends_on.is_empty()));
        assert!(wide.makefile().contains("\nt39:\n\t@sh -c true\n"));
    }

    #[test]
    fn a_random_dag_has_up_to_three_earlier_parents_and_is_always_the_same() {
        let parents = Shape::Random.parents(1_000);
        assert_eq!(parents, Shape::Random.parents(1_000));
        assert!(
            parents
                .iter()
                .enumerate()
                .all(|(index, parents)| parents.iter().all(|parent| *parent < index))
        );
        for count in 0..=3 {
            let tasks = parents.iter().filter(|parents| parents.len() == count).count();
            assert!(tasks > 100, "{tasks} tasks have {count} parents");
        }
    }
}
