//! Positions of tasks, and values by position.

use std::ops::{Index, IndexMut};

/// The position of a task in its spec.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct TaskIndex(usize);

impl TaskIndex {
    pub(super) fn new(position: usize) -> Self {
        Self(position)
    }

    pub(super) fn position(self) -> usize {
        self.0
    }
}

/// A value of each task, in the spec's order.
#[derive(Debug)]
pub(super) struct PerTask<T>(Vec<T>);

impl<T> PerTask<T> {
    pub(super) fn new(values: Vec<T>) -> Self {
        Self(values)
    }

    pub(super) fn as_slice(&self) -> &[T] {
        &self.0
    }

    pub(super) fn indices(&self) -> impl Iterator<Item = TaskIndex> + use<T> {
        (0..self.0.len()).map(TaskIndex)
    }
}

impl<T> Index<TaskIndex> for PerTask<T> {
    type Output = T;

    fn index(&self, task: TaskIndex) -> &T {
        &self.0[task.0]
    }
}

impl<T> IndexMut<TaskIndex> for PerTask<T> {
    fn index_mut(&mut self, task: TaskIndex) -> &mut T {
        &mut self.0[task.0]
    }
}
