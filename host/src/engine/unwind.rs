//! How an initcall of several steps takes back what it has done: the kernel's labels at the end of an init function.
//!
//! Mirrors those labels, exactly reversed (K5.7), at every step: `sock_init` has some that unwind only in part (K6.7).
//! Owns the undo of each step until somebody runs all of them, or keeps them for the end.

use super::failure::Failure;

/// Takes back what was done; to be called once.
pub type Undo = Box<dyn FnOnce() + Send>;

/// One step of an initcall.
pub struct Step<C> {
    /// What it does, for the message when it cannot.
    pub what: &'static str,
    /// Does it, and says how it is taken back; when it fails it has left nothing.
    pub run: fn(&mut C) -> Result<Undo, Failure>,
}

/// Does the steps in order. When one fails, those before it are undone in reverse; else the undo does the same later.
///
/// # Errors
/// The failing step's, with its name.
pub fn do_steps<C>(steps: &[Step<C>], context: &mut C) -> Result<Undo, Failure> {
    let mut done = Done::default();
    for step in steps {
        let undo =
            (step.run)(context).map_err(|f| Failure { message: format!("{}: {}", step.what, f.message), ..f })?;
        done.0.push(undo);
    }
    Ok(Box::new(move || drop(done)))
}

/// The undoes of what is done, run newest first when dropped: so a panic on the way unwinds, too.
#[derive(Default)]
struct Done(Vec<Undo>);

impl Drop for Done {
    fn drop(&mut self) {
        while let Some(undo) = self.0.pop() {
            undo();
        }
    }
}
