//! The examples are run, not only built.

use std::process::Command;

#[test]
fn the_embedded_bank_survives_its_leader() {
    let output = Command::new(env!("CARGO_BIN_EXE_embedded")).output().expect("it runs");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("ended: it was asked to stop"), "{text}");
    assert!(text.contains("n4 votes"), "{text}");
    assert!(text.contains(r#"{"alice": 70, "bob": 20, "carol": 10}"#), "{text}");
}
