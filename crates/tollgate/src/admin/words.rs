//! Words about a record, as arguments.

use admission::tenancy::{Metadata, MetadataPatch};
use clap::Args;

/// Metadata. What is not given stays as it is.
#[derive(Args, Clone, Default)]
pub(super) struct Words {
    /// A word about it, such as `team=search`; repeat for more. `team=` removes one
    #[arg(long = "metadata", value_name = "NAME=VALUE", value_parser = parse)]
    metadata: Vec<(String, Option<String>)>,
}

impl Words {
    pub(super) fn metadata(self) -> Metadata {
        self.metadata.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
    }

    pub(super) fn patch(self) -> MetadataPatch {
        self.metadata.into_iter().collect()
    }
}

fn parse(text: &str) -> Result<(String, Option<String>), String> {
    let (name, value) = text.split_once('=').ok_or("must be NAME=VALUE, such as team=search")?;
    Ok((name.to_owned(), (!value.is_empty()).then(|| value.to_owned())))
}
