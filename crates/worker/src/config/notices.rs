//! Sources of notices, as written.

use std::path::PathBuf;
use std::time::Duration;

use domain::Problems;
use serde::Deserialize;

use crate::notice::NoticeSettings;

/// A source of notices as written.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawNotices {
    /// Which kind it is.
    source: Source,
    /// The metadata service's address.
    address: Option<String>,
    /// How often it is asked.
    #[serde(default, with = "humantime_serde")]
    every: Option<Duration>,
    /// What events call this machine.
    machine: Option<String>,
    /// The file that appears.
    path: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Source {
    Aws,
    Gcp,
    Azure,
    File,
}

pub(super) fn check(raw: Vec<RawNotices>, problems: &mut Problems) -> Vec<NoticeSettings> {
    let each = raw.into_iter().enumerate();
    each.filter_map(|(at, raw)| raw.check(&format!("notices[{at}]"), problems)).collect()
}

impl RawNotices {
    fn check(self, at: &str, problems: &mut Problems) -> Option<NoticeSettings> {
        let Self { source, address, every, machine, path } = self;
        let is_file = matches!(source, Source::File);
        let unused = [
            ("address", address.is_some() && is_file),
            ("every", every.is_some() && matches!(source, Source::Gcp)),
            ("machine", machine.is_some() && !matches!(source, Source::Azure)),
            ("path", path.is_some() && !is_file),
        ];
        for (setting, _) in unused.iter().filter(|(_, unused)| *unused) {
            problems.add(format!("{at}.{setting}"), "means nothing to this source");
        }
        if every.is_some_and(|every| every.is_zero()) {
            problems.add(format!("{at}.every"), "must be longer than zero");
        }
        let address = |default: &str| address.clone().unwrap_or_else(|| default.to_owned());
        let settings = match source {
            Source::Aws => NoticeSettings::Aws {
                address: address(LINK_LOCAL),
                every: every.unwrap_or(AWS_EVERY),
            },
            Source::Gcp => NoticeSettings::Gcp { address: address(GCP_ADDRESS) },
            Source::Azure => NoticeSettings::Azure {
                address: address(LINK_LOCAL),
                every: every.unwrap_or(AZURE_EVERY),
                machine,
            },
            Source::File => {
                let Some(path) = path else {
                    problems.add(format!("{at}.path"), "is needed: which file?");
                    return None;
                };
                NoticeSettings::File { path, every: every.unwrap_or(FILE_EVERY) }
            }
        };
        if let Err(error) = settings.clone().open() {
            problems.add(format!("{at}.address"), error.to_string());
        }
        Some(settings)
    }
}

/// Where AWS and Azure have their metadata services.
const LINK_LOCAL: &str = "http://169.254.169.254";
const GCP_ADDRESS: &str = "http://metadata.google.internal";
const AWS_EVERY: Duration = Duration::from_secs(5);
const AZURE_EVERY: Duration = Duration::from_secs(1);
const FILE_EVERY: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(text: &str) -> Result<Vec<NoticeSettings>, String> {
        #[derive(Deserialize)]
        struct Raw {
            notices: Vec<RawNotices>,
        }
        let raw: Raw = toml::from_str(text).unwrap();
        let mut problems = Problems::default();
        let notices = check(raw.notices, &mut problems);
        problems.into_result(notices).map_err(|problems| problems.to_string())
    }

    #[test]
    fn a_source_needs_no_more_than_its_name() {
        for source in ["aws", "gcp", "azure"] {
            let notices = checked(&format!("[[notices]]\nsource = \"{source}\"")).unwrap();
            assert_eq!(notices.len(), 1, "{source}");
        }
        assert!(checked("[[notices]]\nsource = \"file\"").unwrap_err().contains("path"));
    }

    #[test]
    fn what_means_nothing_to_a_source_is_a_problem() {
        let text = "[[notices]]\nsource = \"gcp\"\nevery = \"1s\"\nmachine = \"vm\"\npath = \"/a\"\naddress = \"gcp\"";
        let problems = checked(text).unwrap_err();
        for at in ["every", "machine", "path", "address"] {
            assert!(problems.contains(&format!("notices[0].{at}")), "{at}: {problems}");
        }
    }
}
