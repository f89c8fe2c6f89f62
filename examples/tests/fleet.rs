//! The example of a fleet in small: whatever happens to it, each user gets an answer.

use std::process::Command;

#[test]
fn each_user_of_the_fleet_gets_an_answer_whatever_happens() {
    let fleet = Command::new(env!("CARGO_BIN_EXE_fleet"))
        .arg("short")
        .output()
        .expect("starts");
    let said = String::from_utf8_lossy(&fleet.stdout);
    let errors = String::from_utf8_lossy(&fleet.stderr);
    assert!(fleet.status.success(), "{said}{errors}");
    for situation in [
        "balance", "rates", "deploy", "database", "tenant", "blocked",
    ] {
        assert!(
            said.contains(&format!("{situation}: ")),
            "{situation} in {said}"
        );
    }
    // Nobody lost a connection, and the one who asks for too much is told so.
    assert!(
        !said.contains("without an answer") && !said.contains("a connection"),
        "{said}"
    );
    let (_, tenant) = said.split_once("the hot one: ").expect("a tenant");
    assert!(tenant.contains("x 429"), "{tenant}");
}
