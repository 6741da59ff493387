//! Folders of this machine, copied.

use super::{CONFIG, Machine, bytes, files};

#[tokio::test]
async fn a_folder_is_copied_as_if_it_came_from_elsewhere() {
    let machine = Machine::with("http://127.0.0.1:9", Vec::new());
    let from = machine.models.path().join("from");
    let weights = bytes(50_000, 3);
    std::fs::create_dir(&from).unwrap();
    for (path, content) in [
        ("config.json", CONFIG),
        ("tokenizer.json", b"{}"),
        ("model.safetensors", &weights),
        ("pytorch_model.bin", b"x"),
    ] {
        std::fs::write(from.join(path), content).unwrap();
    }
    let to = machine.models.path().join("to");

    machine.pull_to(&format!("file://{}", from.display()), &to).await.unwrap();

    let found = files(&to);
    assert_eq!(found["model.safetensors"], weights);
    assert_eq!(found.len(), 3);
}
