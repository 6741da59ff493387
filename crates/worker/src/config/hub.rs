//! Where a worker's model and adapters are, as written, for whoever fetches what is elsewhere.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::RawWorker;

/// Where models are kept that are pulled, and from whom.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawHub {
    /// The folder they are pulled into.
    pub folder: Option<PathBuf>,
    /// The hub of `hf://`.
    pub endpoint: Option<String>,
    /// File that holds the token of that hub.
    pub token_file: Option<PathBuf>,
}

/// Something that a worker reads when it starts.
#[derive(Debug)]
pub struct Place<'a> {
    /// The setting, for messages.
    pub at: String,
    /// A path, or an address as `hf://organization/name`.
    pub path: &'a mut PathBuf,
    /// Only its tokenizer is read.
    pub is_tokenizer: bool,
}

impl RawWorker {
    /// Where models are kept that are pulled, and from whom.
    pub const fn hub(&self) -> &RawHub {
        &self.hub
    }

    /// Everything that is read from a path; whoever fetches what is elsewhere puts the path in place of the address.
    pub fn places(&mut self) -> Vec<Place<'_>> {
        let model = (self.model.path.as_mut(), self.model.tokenizer.as_mut());
        let mut places = of_model("model", model);
        for (index, beside) in self.models.iter_mut().enumerate() {
            places.extend(of_model(&format!("models[{index}]"), beside.paths()));
        }
        for (index, adapter) in self.adapters.iter_mut().enumerate() {
            let at = format!("adapters[{index}].path");
            places.push(Place { at, path: adapter.path(), is_tokenizer: false });
        }
        places
    }
}

/// What is read of a model whose settings stand `at` a place.
fn of_model<'a>(
    at: &str,
    (path, tokenizer): (Option<&'a mut PathBuf>, Option<&'a mut PathBuf>),
) -> Vec<Place<'a>> {
    let path = path.map(|path| Place { at: format!("{at}.path"), path, is_tokenizer: false });
    let tokenizer =
        tokenizer.map(|path| Place { at: format!("{at}.tokenizer"), path, is_tokenizer: true });
    path.into_iter().chain(tokenizer).collect()
}

/// Whether a path or an address (perhaps with a revision) names a GGUF file.
pub(super) fn is_gguf(path: &Path) -> bool {
    let text = path.to_string_lossy();
    let text = match text.split_once("://") {
        Some((_, rest)) => rest.split('@').next().unwrap_or_default(),
        None => &text,
    };
    Path::new(text).extension().is_some_and(|extension| extension == "gguf")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_that_is_read_can_be_fetched_before() {
        let text = "
            [model]
            path = 'hf://acme/tiny/tiny.gguf@v1'
            tokenizer = 'hf://acme/tiny'
            [[models]]
            name = 'other'
            path = 'hf://acme/other/other.gguf'
            tokenizer = 'hf://acme/other'
            [[adapters]]
            name = 'support'
            path = 's3://models/support'
        ";
        let mut raw: RawWorker = toml::from_str(text).unwrap();

        for place in raw.places() {
            *place.path = PathBuf::from(format!("{}.gguf", place.at));
        }

        let settings = format!("{:?}", raw.check().unwrap());
        let read = [
            "model.path",
            "model.tokenizer",
            "models[0].path",
            "models[0].tokenizer",
            "adapters[0].path",
        ];
        for at in read {
            assert!(settings.contains(at), "{at} is missing in {settings}");
        }
    }

    #[test]
    fn an_address_names_a_gguf_file_with_a_revision_too() {
        assert!(is_gguf(Path::new("hf://acme/tiny/tiny.gguf@v1")));
        assert!(is_gguf(Path::new("/models/a@b.gguf")));
        assert!(!is_gguf(Path::new("hf://acme/tiny@x.gguf")));
    }
}
