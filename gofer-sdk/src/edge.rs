//! How a task names its parents.

use crate::task::Task;

/// One parent or several: an id, a [`Task`], or an array, slice or `Vec` of these.
///
/// ```
/// use gofer_sdk::Task;
///
/// let fmt = Task::new("fmt").script("cargo fmt --check");
/// let lint = Task::new("lint").script("cargo clippy").depends_on(&fmt); // a typing error does not compile
/// Task::new("build").script("cargo build").depends_on([&fmt, &lint]);
/// Task::new("report").script("./report").depends_on_any(["fmt", "lint", "build"]);
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not name a parent",
    note = "a parent is a task, `&build`, or its id, `\"build\"`; several are an array, slice or \
            `Vec` of these"
)]
pub trait Parents: sealed::Sealed {
    /// The ids, in order.
    fn into_ids(self) -> Vec<String>;
}

mod sealed {
    pub trait Sealed {}
}

macro_rules! one_parent {
    ($($kind:ty: $self:ident => $id:expr;)*) => {$(
        impl sealed::Sealed for $kind {}
        impl Parents for $kind {
            fn into_ids($self) -> Vec<String> {
                vec![$id]
            }
        }
    )*};
}

one_parent! {
    &str: self => self.to_owned();
    &&str: self => (*self).to_owned();
    &String: self => self.clone();
    String: self => self;
    &Task: self => self.id().to_owned();
    &&Task: self => self.id().to_owned();
}

macro_rules! owned_parents {
    ($([$($generics:tt)*] $kind:ty;)*) => {$(
        impl<P: Parents, $($generics)*> sealed::Sealed for $kind {}
        impl<P: Parents, $($generics)*> Parents for $kind {
            fn into_ids(self) -> Vec<String> {
                self.into_iter().flat_map(P::into_ids).collect()
            }
        }
    )*};
}

owned_parents! {
    [const N: usize] [P; N];
    [] Vec<P>;
}

macro_rules! borrowed_parents {
    ($([$($generics:tt)*] $kind:ty;)*) => {$(
        impl<'a, P, $($generics)*> sealed::Sealed for $kind where &'a P: Parents {}
        impl<'a, P, $($generics)*> Parents for $kind
        where
            &'a P: Parents,
        {
            fn into_ids(self) -> Vec<String> {
                self.iter().flat_map(Parents::into_ids).collect()
            }
        }
    )*};
}

borrowed_parents! {
    [] &'a [P];
    [] &'a Vec<P>;
    [const N: usize] &'a [P; N];
}
