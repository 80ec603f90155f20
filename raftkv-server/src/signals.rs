//! When to stop: SIGTERM, ctrl-c, or the end of the process that started this one.

use std::io::Read;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tracing::info;

/// Resolves when the process is asked to stop.
///
/// # Panics
/// When awaited outside of a tokio runtime, or where the system lets no signal be caught.
pub async fn stop() {
    let mut terminate = signal(SignalKind::terminate()).expect("SIGTERM can be caught");
    let mut interrupt = signal(SignalKind::interrupt()).expect("SIGINT can be caught");
    tokio::select! {
        _ = terminate.recv() => info!("asked to stop (SIGTERM)"),
        _ = interrupt.recv() => info!("asked to stop (ctrl-c)"),
    }
}

/// As [`stop`]; if `with_parent`, also when standard input ends, as it does when the process that holds its other end dies.
pub async fn stop_with_parent(with_parent: bool) {
    tokio::select! {
        () = stop() => (),
        () = parent_gone(), if with_parent => info!("the process that started this one is gone"),
    }
}

async fn parent_gone() {
    let (told, gone) = oneshot::channel();
    // A thread of its own, for a blocking read can't be cancelled and the runtime would wait for it.
    std::thread::spawn(move || {
        let mut stdin = std::io::stdin().lock();
        let mut buffer = [0; 64];
        while stdin.read(&mut buffer).is_ok_and(|count| count > 0) {}
        let _ = told.send(());
    });
    let _ = gone.await;
}
