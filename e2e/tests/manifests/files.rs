//! Manifest files: their documents, and the words that they expect.

use std::{fs, path::Path};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

/// What a line begins with that says what the API server must answer.
const EXPECT: &str = "# expect: ";

/// One file.
pub struct Case {
    /// Its name without the folder.
    pub file: String,
    /// What the answer must contain, all of it.
    pub expectations: Vec<String>,
    /// The objects in it.
    pub documents: Vec<Value>,
}

/// Every `.yaml` file directly in `folder`, by name.
pub fn read(folder: &Path) -> Result<Vec<Case>> {
    let entries = fs::read_dir(folder).with_context(|| format!("list {}", folder.display()))?;
    let mut cases = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_none_or(|extension| extension != "yaml") {
            continue;
        }
        let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        let documents = serde_saphyr::from_multiple(&text)
            .map_err(|error| anyhow::anyhow!("{}: {error}", path.display()))?;
        let file = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        cases.push(Case {
            file,
            expectations: text
                .lines()
                .filter_map(|line| line.strip_prefix(EXPECT))
                .map(str::to_owned)
                .collect(),
            documents,
        });
    }
    ensure!(
        !cases.is_empty(),
        "{} holds no .yaml file",
        folder.display()
    );
    cases.sort_by(|a, b| a.file.cmp(&b.file));
    Ok(cases)
}
