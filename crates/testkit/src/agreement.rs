//! Comparison of the running gateway with `explain`: each request that a test sends is judged offline too, and
//! both must come to the same refusal.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use http::{HeaderValue, Version as HttpVersion, header};
use jiff::Timestamp;
use spine_proxy::commands::explain::Explainer;
use spine_proxy::gateway::{ClientCertificate, JudgedRequest};
use spine_proxy::refusal;

use super::request::{Answer, TestRequest, Version};
use super::test_bed::{TestBed, chain};

/// Refusals that depend on the state of the running gateway, on the rest of the body or on the provider:
/// `explain` cannot know them, and says of their steps that they are not judged.
pub const NOT_JUDGED_OFFLINE: [&str; 22] = [
    "audit_unavailable",
    "body_cut",
    "body_timed_out",
    "certificate_rate_limited",
    "consumer_busy",
    "consumer_gone",
    "directory_unavailable",
    "gateway_full",
    "internal",
    "lookups_exceeded",
    "outcome_unknown",
    "outcome_unknown_in_time",
    "overloaded",
    "plain_http",
    "provider_busy",
    "provider_circuit_open",
    "provider_failed",
    "provider_not_reached",
    "provider_not_reached_in_time",
    "provider_timed_out",
    "quota_exceeded",
    "receiver_not_found",
];

/// Comparisons of one test bed.
#[derive(Debug)]
pub struct Agreement {
    /// Files as they were when the gateway started: what is in force after a change is not known here.
    started: FolderState,
    /// Configuration, loaded when it is needed first.
    explainer: tokio::sync::OnceCell<Box<Explainer>>,
    compared: Mutex<BTreeMap<&'static str, usize>>,
}

/// Path, time of change in nanoseconds and size of each file.
type FolderState = Vec<(PathBuf, (i64, i64), u64)>;

impl Agreement {
    /// Starts with the files of a gateway that has just been started.
    pub fn new(folder: &Path) -> Self {
        let (explainer, compared) = (tokio::sync::OnceCell::new(), Mutex::default());
        Self { started: folder_state(folder), explainer, compared }
    }

    /// Returns the number of refusals with this token that were compared; `forwarded` counts requests that were
    /// not refused.
    pub fn count(&self, token: &str) -> usize {
        let compared = self.compared.lock().unwrap_or_else(PoisonError::into_inner);
        compared.get(token).copied().unwrap_or_default()
    }

    /// Asserts that a request which was answered is judged offline as the gateway judged it.
    ///
    /// Not compared are refusals of [`NOT_JUDGED_OFFLINE`], requests for which the directory must be asked, and
    /// requests after a change of the bed's files.
    pub async fn compare(&self, bed: &TestBed, call: &TestRequest, answer: &Answer) {
        // A provider may send the header too.
        let known = refusal::every().into_iter().map(|refusal| refusal.row());
        let refused = known.into_iter().find(|row| Some(row.token) == answer.token());
        let is_known = refused.is_none_or(|row| !NOT_JUDGED_OFFLINE.contains(&row.token));
        if !is_known || self.started != folder_state(bed.folder.path()) {
            return;
        }
        let config = bed.path("spine-proxy.toml");
        let load = async || {
            Box::new(Explainer::load(&config, false).unwrap_or_else(|why| panic!("{why}")))
        };
        let explainer = self.explainer.get_or_init(load).await;
        let judged = judge(explainer, bed, call).await;
        if judged.steps.is_uncertain() {
            return;
        }
        let offline = judged.steps.first_refusal().map(|refusal| refusal.row());
        let both = (offline.map(|row| row.token), refused.map(|row| row.token));
        assert_eq!(both.0, both.1, "explain and the gateway differ: {call:?} {:?}", judged.steps);
        if let Some(row) = offline {
            assert_eq!(row.status, answer.status);
        }
        let mut compared = self.compared.lock().unwrap_or_else(PoisonError::into_inner);
        *compared.entry(both.1.unwrap_or("forwarded")).or_default() += 1;
    }
}

async fn judge(explainer: &Explainer, bed: &TestBed, call: &TestRequest) -> JudgedRequest {
    let chain = bed.issued.get(call.certificate).map(chain).unwrap_or_default();
    let certificate = ClientCertificate::Presented(chain);
    let now = Timestamp::now();
    match call.version {
        Version::Http1 => explainer.judge_bytes(&call.bytes(), &certificate, now).await.unwrap(),
        Version::Http2 => {
            let (mut head, _) = call.request().into_parts();
            head.version = HttpVersion::HTTP_2;
            let has_body = !call.body.is_empty();
            if has_body {
                // The HTTP/2 library adds it.
                head.headers
                    .entry(header::CONTENT_LENGTH)
                    .or_insert(HeaderValue::from(call.body.len()));
            }
            explainer.judge_head(&head, has_body, &certificate, now).await
        }
    }
}

/// Returns the state of all files in a folder and its folders, without journals.
fn folder_state(folder: &Path) -> FolderState {
    let mut state = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else { continue };
        for entry in entries.flatten() {
            let Ok(file) = std::fs::metadata(entry.path()) else { continue };
            if file.is_dir() && !entry.file_name().to_string_lossy().starts_with("audit") {
                folders.push(entry.path());
            } else if file.is_file() {
                state.push((entry.path(), (file.ctime(), file.ctime_nsec()), file.len()));
            }
        }
    }
    state.sort();
    state
}
