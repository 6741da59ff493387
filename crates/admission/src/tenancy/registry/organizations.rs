//! Organizations: made by the platform, which alone says how they are called and what bounds them.

use domain::{OrganizationId, Problems, Secret};
use serde::Serialize;

use super::error::RegistryError;
use super::policy::PolicyPatch;
use super::request::{Desk, Planned, Request, checked, to_change};
use super::words::{MetadataPatch, Patched, check_length, name, new_metadata, patch_metadata};
use crate::tenancy::kept::RecordId;
use crate::tenancy::permissions::{Action, Place};
use crate::tenancy::records::{Admin, Metadata, Organization, Project, Webhook};
use crate::tenancy::rules::{Policy, TimeZone};

/// Makes an organization.
#[derive(Clone, Debug, Default, Serialize)]
pub struct NewOrganization {
    /// Its name, for people; unique.
    pub name: String,
    /// The zone of its calendar windows, by its name in the IANA database; UTC if absent.
    pub time_zone: Option<String>,
    /// What stands there.
    pub policy: PolicyPatch,
    /// Where alerts go.
    pub webhook: Option<WebhookDraft>,
    /// Words about it.
    pub metadata: Metadata,
}

/// Changes an organization. What is not named stays.
#[derive(Clone, Debug, Serialize)]
pub struct OrganizationUpdate {
    /// Which one.
    pub organization: OrganizationId,
    /// Its new name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The new zone of its calendar windows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time_zone: Option<String>,
    /// What is to stand there.
    #[serde(skip_serializing_if = "PolicyPatch::is_empty")]
    pub policy: PolicyPatch,
    /// Where alerts are to go.
    #[serde(skip_serializing_if = "Patched::is_same")]
    pub webhook: Patched<WebhookDraft>,
    /// Words about it.
    #[serde(skip_serializing_if = "MetadataPatch::is_empty")]
    pub metadata: MetadataPatch,
}

/// Removes an organization that has nothing in it.
#[derive(Clone, Debug, Serialize)]
pub struct OrganizationDeletion {
    /// Which one.
    pub organization: OrganizationId,
}

/// Where alerts are to be sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct WebhookDraft {
    /// An `https://` address, or `http://` on loopback.
    pub url: String,
    /// Keys the signature; the one before stays if absent.
    #[serde(skip)]
    pub secret: Option<Secret<String>>,
}

impl OrganizationUpdate {
    /// A change of nothing, to be filled in.
    pub fn of(organization: OrganizationId) -> Self {
        Self {
            organization,
            name: None,
            time_zone: None,
            policy: PolicyPatch::default(),
            webhook: Patched::Same,
            metadata: MetadataPatch::new(),
        }
    }
}

impl Request for NewOrganization {
    type Record = Organization;
    const ACTION: Action = Action::Create;

    fn subject(&self) -> Option<RecordId> {
        None
    }

    fn secret(&self) -> Option<&Secret<String>> {
        self.webhook.as_ref()?.secret.as_ref()
    }

    fn plan(&self, desk: &Desk<'_>) -> Result<Planned<Organization>, RegistryError> {
        let mut problems = Problems::default();
        let zone = self.time_zone.as_deref();
        let webhook = self.webhook.as_ref();
        let organization = Organization {
            id: OrganizationId::generate(),
            version: 0,
            name: name(&self.name, "name", &mut problems),
            time_zone: zone.map_or_else(TimeZone::default, |text| time_zone(text, &mut problems)),
            policy: self.policy.apply(&Policy::default(), desk.now, "policy", &mut problems),
            webhook: webhook.map(|draft| check_webhook(draft, None, &mut problems)),
            metadata: new_metadata(&self.metadata, &mut problems),
            created_at: desk.now,
        };
        let organization = checked(organization, problems)?;
        desk.check_name(&organization, |_| true)?;
        Ok(Planned::kept(organization))
    }
}

impl Request for OrganizationUpdate {
    type Record = Organization;
    const ACTION: Action = Action::Update;

    fn subject(&self) -> Option<RecordId> {
        Some(self.organization.into())
    }

    fn needs(&self) -> Vec<Action> {
        // A name is taken from all others, and a window that ends elsewhere is a budget that begins anew.
        let governs = self.name.is_some() || self.time_zone.is_some() || !self.policy.is_empty();
        let updates = !self.webhook.is_same() || !self.metadata.is_empty();
        to_change(updates, governs)
    }

    fn secret(&self) -> Option<&Secret<String>> {
        match &self.webhook {
            Patched::Set(draft) => draft.secret.as_ref(),
            _ => None,
        }
    }

    fn plan(&self, desk: &Desk<'_>) -> Result<Planned<Organization>, RegistryError> {
        let before = desk.record::<Organization>(self.organization)?;
        let mut problems = Problems::default();
        let mut organization = before.clone();
        if let Some(text) = &self.name {
            organization.name = name(text, "name", &mut problems);
        }
        if let Some(text) = &self.time_zone {
            organization.time_zone = time_zone(text, &mut problems);
        }
        organization.policy = self.policy.apply(&before.policy, desk.now, "policy", &mut problems);
        match &self.webhook {
            Patched::Same => {}
            Patched::Cleared => organization.webhook = None,
            Patched::Set(draft) => {
                let webhook = check_webhook(draft, before.webhook.as_ref(), &mut problems);
                organization.webhook = Some(webhook);
            }
        }
        organization.metadata = patch_metadata(&before.metadata, &self.metadata, &mut problems);
        let organization = checked(organization, problems)?;
        desk.check_name(&organization, |_| true)?;
        Ok(Planned::kept(organization))
    }
}

impl Request for OrganizationDeletion {
    type Record = Organization;
    const ACTION: Action = Action::Delete;

    fn subject(&self) -> Option<RecordId> {
        Some(self.organization.into())
    }

    fn plan(&self, desk: &Desk<'_>) -> Result<Planned<Organization>, RegistryError> {
        let organization = desk.record::<Organization>(self.organization)?;
        let here = Place::Organization(self.organization);
        let own = |project: &&Project| project.organization == self.organization;
        let projects = desk.view.all::<Project>().filter(own).count();
        let live = |admin: &&Admin| admin.revoked_at.is_none();
        let at_home = |admin: &&Admin| admin.role.home(desk.view) == Some(here);
        let admins = desk.view.all::<Admin>().filter(live).filter(at_home).count();
        for (count, what, remedy) in [
            (
                projects,
                "projects",
                "delete its projects, or block it: a project with keys stays for ever",
            ),
            (admins, "administrators", "revoke their tokens first"),
        ] {
            if count > 0 {
                let detail = format!("organization {} has {count} {what}", self.organization);
                return Err(RegistryError::Conflict { detail, remedy });
            }
        }
        Ok(Planned::removed(organization.clone()))
    }
}

fn time_zone(text: &str, problems: &mut Problems) -> TimeZone {
    TimeZone::try_from(text.to_owned()).unwrap_or_else(|unknown| {
        problems.add("time_zone", unknown.to_string());
        TimeZone::default()
    })
}

fn check_webhook(
    draft: &WebhookDraft,
    before: Option<&Webhook>,
    problems: &mut Problems,
) -> Webhook {
    let WebhookDraft { url, secret } = draft;
    check_length(url, MAX_URL_CHARACTERS, "webhook.url", problems);
    if !is_safe_address(url) {
        let message =
            "must be an `https://` address without user and password; `http://` is for loopback";
        problems.add("webhook.url", message);
    }
    if let Some(secret) = secret {
        let bytes = secret.expose().len();
        if !(MIN_SECRET_BYTES..=MAX_SECRET_BYTES).contains(&bytes) {
            let message = format!("must have {MIN_SECRET_BYTES} to {MAX_SECRET_BYTES} bytes");
            problems.add("webhook.secret", message);
        }
    }
    let kept = before.map(|webhook| webhook.secret.clone());
    let secret = secret.clone().or(kept).unwrap_or_else(|| {
        problems.add("webhook.secret", "is missing; choose one, and check signatures with it");
        Secret::new(String::new())
    });
    Webhook { url: url.clone(), secret }
}

/// Whether what is sent there cannot be read on the way.
fn is_safe_address(url: &str) -> bool {
    let Some((scheme, rest)) = url.split_once("://") else { return false };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let clean = |letter: char| letter.is_ascii_graphic() && !matches!(letter, '@' | '\\');
    if authority.is_empty()
        || !authority.chars().all(clean)
        || !url.chars().all(|c| c.is_ascii_graphic())
    {
        return false;
    }
    let host = match authority.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => authority.split(':').next().unwrap_or_default(),
    };
    let is_loopback = || {
        let address = host.parse::<std::net::IpAddr>();
        host == "localhost" || address.is_ok_and(|address| address.is_loopback())
    };
    !host.is_empty() && (scheme == "https" || scheme == "http" && is_loopback())
}

const MAX_URL_CHARACTERS: usize = 2_048;
const MIN_SECRET_BYTES: usize = 16;
const MAX_SECRET_BYTES: usize = 256;

#[cfg(test)]
mod tests {
    use super::is_safe_address;

    #[test]
    fn alerts_go_where_nobody_reads_along() {
        for good in [
            "https://hooks.example.com/a?b=c",
            "https://example.com:8443",
            "https://[2001:db8::1]/x",
            "http://127.0.0.1:9/hook",
            "http://localhost/hook",
            "http://[::1]:80/",
        ] {
            assert!(is_safe_address(good), "{good}");
        }
        for bad in [
            "",
            "https://",
            "https:///path",
            "https://:443/",
            "http://example.com/",
            "http://localhost.example.com/",
            "http://127.0.0.1@example.com/",
            "https://user:word@example.com/",
            "ftp://example.com/",
            "https://exam ple.com/",
            "https://example.com/\nx",
            "http://127.0.0.1\\@example.com/",
        ] {
            assert!(!is_safe_address(bad), "{bad}");
        }
    }
}
