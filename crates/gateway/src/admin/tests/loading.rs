//! Models that administrators have workers load and unload.

use futures_util::StreamExt as _;
use proto::Worker as _;
use serde_json::json;

use super::world::World;

#[tokio::test]
async fn a_worker_serves_what_it_is_told_to_and_the_audit_log_knows() {
    let world = World::new().await;
    let draft =
        json!({ "worker": "scripted", "name": "second", "path": "llama", "quantize": "q8_0" });
    let names = async || {
        let state = world.worker.watch().await.unwrap().next().await.unwrap();
        state.models.iter().map(|info| info.name.to_string()).collect::<Vec<_>>()
    };

    let planned = world.post("/admin/v1/workers/load?dry_run=true", &draft).send().await;
    assert_eq!(planned.is(200).json(), json!({ "worker": "scripted", "name": "second" }));
    assert_eq!(names().await, ["scripted"], "a dry run changes nothing");
    let told = world.post("/admin/v1/workers/load", &draft).send().await.is(200).json();

    assert_eq!((&told["name"], told["digest"].is_string()), (&json!("second"), true), "{told}");
    assert_eq!(names().await, ["scripted", "second"]);
    let again = world.post("/admin/v1/workers/load", &draft).send().await.is(409).json();
    assert_eq!(again["code"], "model_name_taken", "{again}");
    assert!(again["detail"].as_str().unwrap().contains("`second`"), "{again}");

    let unload = json!({ "worker": "scripted", "name": "second", "within_seconds": 5 });
    let told = world.post("/admin/v1/workers/unload", &unload).send().await.is(200).json();

    assert_eq!(told, json!({ "worker": "scripted", "name": "second", "running": 0 }));
    assert_eq!(names().await, ["scripted"]);
    let again = world.post("/admin/v1/workers/unload", &unload).send().await.is(404).json();
    assert_eq!(again["code"], "no_such_model", "{again}");
    let audit = world.get("/admin/v1/audit?limit=1000").send().await.is(200).text;
    for told in ["\"load\":\"second\"", "\"unload\":\"second\"", "\"path\":\"llama\""] {
        assert!(audit.contains(told) || audit.contains(&told.replace("\":", "\": ")), "{audit}");
    }
}

#[tokio::test]
async fn a_load_that_contradicts_itself_or_comes_too_late_is_refused() {
    let world = World::new().await;
    let draft = json!({ "worker": "scripted", "name": "n", "path": "p", "adapter_of": "scripted" });
    for (field, value) in [("quantize", "q8_0"), ("tokenizer", "t"), ("name", " ")] {
        let mut wrong = draft.clone();
        wrong[field] = value.into();
        let refused = world.post("/admin/v1/workers/load", &wrong).send().await.is(422).json();
        assert_eq!(refused["problems"][0]["field"], field, "{refused}");
    }
    let unknown = json!({ "worker": "nobody", "name": "n", "path": "p" });
    let refused = world.post("/admin/v1/workers/load", &unknown).send().await.is(422).json();
    assert_eq!(refused["problems"][0]["field"], "worker");
    let unknown = json!({ "worker": "nobody", "name": "n" });
    let refused = world.post("/admin/v1/workers/unload", &unknown).send().await.is(422).json();
    assert_eq!(refused["problems"][0]["field"], "worker");

    world.worker.drain(None).await.unwrap();

    let refused = world.post("/admin/v1/workers/load", &draft).send().await.is(409).json();
    assert_eq!(refused["code"], "worker_draining", "{refused}");
}
