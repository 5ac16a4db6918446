//! Routes and policies from files alone, as the program prints them.

use std::{fmt::Write as _, fs};

use serde_json::Value;

use crate::machine::Machine;

const SAMPLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../samples");

fn from_files(task: &str) -> String {
    format!("--from-files {SAMPLES}/shop/manifests --from-files {SAMPLES}/tasks/{task}/manifests")
}

#[tokio::test]
async fn rules_are_listed_in_their_order() {
    let machine = Machine::new();
    let mut text = String::new();
    for (command, task) in [
        ("routes shop/reviews", "request-routing"),
        ("routes reviews.shop --from shop --port 9080", "traffic-shifting"),
        ("routes shop/ratings", "fault-injection-delay"),
        ("routes shop/details", "rewrite-and-headers"),
        ("routes shop/details", "request-routing"),
        ("routes shop/detail", "request-routing"),
    ] {
        let ran = machine.run(&format!("{command} {}", from_files(task))).await;
        writeln!(text, "$ meshctl {command}, {task}\n{}\n", ran.all()).unwrap();
    }
    insta::assert_snapshot!("routes", text);
}

#[tokio::test]
async fn json_has_the_rules_of_the_model_and_the_whole_answer() {
    let machine = Machine::new();
    let files = from_files("request-routing");
    let json = async |command: &str| -> Value { serde_json::from_str(&machine.run(command).await.out).unwrap() };
    let routes = json(&format!("routes shop/reviews {files} -o json")).await;
    assert_eq!(routes[0]["http"][0]["origin"]["field"], "spec.http[0]");
    let answer = json(&format!("explain shop/client reviews.shop -H end-user:jason {files} -o json")).await;
    assert_eq!(answer["outcome"], "routed");
    assert_eq!(answer["explanation"]["backends"][0]["subset"], "v2");
}

#[tokio::test]
async fn a_test_that_fails_has_exit_code_1() {
    let machine = Machine::new();
    let file = machine.path("expect.yaml");
    let run = async |text: &str| {
        fs::write(&file, text).unwrap();
        machine.run(&format!("test {} {}", file.display(), from_files("authorization-deny"))).await
    };
    let denied = "[{what: w, from: shop/client, to: details.shop, path: /whoami, expect: {denied-by: shop/no-whoami}}]";
    let met = run(denied).await;
    assert_eq!(met.code, Some(0), "{}", met.all());
    let missed = run(&denied.replace("/whoami", "/details/0")).await;
    assert_eq!(missed.code, Some(1));
    assert!(missed.out.contains("denied-by is none, not shop/no-whoami"), "{}", missed.out);
    let unknown = run("[{what: w, from: a/b, to: c/d, expects: {}}]").await;
    assert!(unknown.failed().contains("expects"));
}
