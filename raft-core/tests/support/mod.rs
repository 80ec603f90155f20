//! A cluster in one thread, for tests: [`cluster`] drives real nodes over a network and disks that do as they are
//! told, [`trace`] writes down what they do, and [`script`] lets a golden script tell the story.

pub mod cluster;
pub mod disk;
pub mod network;
pub mod script;
pub mod trace;
