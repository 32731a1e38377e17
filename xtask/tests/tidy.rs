//! The house itself is tidy: the same checks as `cargo xtask tidy`, as a test.

use xtask::tidy::{Tree, findings};

#[test]
fn the_house_is_as_the_map_says() {
    let tree = Tree::read(&xtask::shell::root()).unwrap();
    assert!(tree.texts.len() > 20, "the tree was not read");
    let found = findings(&tree);
    let lines: Vec<String> = found.iter().map(ToString::to_string).collect();
    assert!(found.is_empty(), "\n{}", lines.join("\n"));
}
