//! Whatever a peer or a driver says, a node neither panics nor breaks its own word.
//!
//! [`run`] reads a run out of bytes: settings, what was stored, then one input after the other. Numbers are mostly drawn near to those that the node
//! would take for true, and what the node orders is mostly answered truly, so that a run leads far; the rest is nonsense. After each input, what can
//! be seen from outside is checked.

mod draw;
mod subject;

use arbitrary::{Result, Unstructured};

use crate::draw::Draw;
use crate::subject::Subject;

/// The run that `bytes` stand for.
///
/// # Panics
/// If the core does, or breaks its word.
pub fn run(bytes: &[u8]) {
    // Bytes that have come to their end are the end of the run.
    let _ = run_to_the_end(&mut Unstructured::new(bytes));
}

fn run_to_the_end(bytes: &mut Unstructured<'_>) -> Result<()> {
    let Some(mut subject) = Subject::draw(bytes)? else { return Ok(()) };
    while !bytes.is_empty() {
        match bytes.int_in_range(0..=63u8)? {
            0 => subject.restart(),
            1..32 if subject.has_answers() => {
                let answer = bytes.choose_index(subject.answers())?;
                subject.answer(answer);
            }
            _ => {
                let input = Draw::new(bytes, &subject).input()?;
                subject.step(input);
            }
        }
    }
    Ok(())
}
