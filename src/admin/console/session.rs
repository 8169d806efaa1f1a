//! Sessions of operators who have logged in, in memory.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use http::header::{self, HeaderMap, HeaderValue};

use super::is_same;
use crate::hex;

/// Limit: sessions; the oldest ends when another begins.
const SESSIONS_MAX: usize = 16;
/// Limit: time for which a session lasts.
const SESSION_MAX: Duration = Duration::from_secs(8 * 60 * 60);
/// Length of a session's id before it is written in hexadecimal, in bytes.
const ID_BYTES: usize = 32;
const COOKIE: &str = "spine-proxy-console";

/// Open sessions, oldest first.
#[derive(Debug, Default)]
pub(super) struct Sessions(Mutex<VecDeque<OperatorSession>>);

#[derive(Debug)]
struct OperatorSession {
    /// SHA-256 of the id: the ids themselves are held by the browsers alone.
    id_sha256: String,
    /// SHA-256 of the token with which the session began: another token ends it.
    token_sha256: String,
    began: Instant,
}

impl Sessions {
    /// Begins a session and returns its cookie; `None` if there are no random numbers.
    pub(super) fn begin(&self, token: &str, now: Instant) -> Option<HeaderValue> {
        let mut id = [0; ID_BYTES];
        aws_lc_rs::rand::fill(&mut id).ok()?;
        let id = hex::encode(&id);
        let mut sessions = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if sessions.len() >= SESSIONS_MAX {
            sessions.pop_front();
        }
        sessions.push_back(OperatorSession {
            id_sha256: hex::sha256(id.as_bytes()),
            token_sha256: hex::sha256(token.as_bytes()),
            began: now,
        });
        drop(sessions);
        let seconds = SESSION_MAX.as_secs();
        let cookie =
            format!("{COOKIE}={id}; Path=/console; Max-Age={seconds}; HttpOnly; SameSite=Strict");
        HeaderValue::try_from(cookie).ok()
    }

    /// Returns true if the request has the cookie of a session that began with this token and lasts.
    pub(super) fn is_open(&self, headers: &HeaderMap, token: &str, now: Instant) -> bool {
        let mut sessions = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        sessions.retain(|session| now.saturating_duration_since(session.began) < SESSION_MAX);
        let token_sha256 = hex::sha256(token.as_bytes());
        ids(headers).any(|id| {
            let id_sha256 = hex::sha256(id.as_bytes());
            sessions.iter().fold(false, |is_found, session| {
                let is_it = is_same(&session.id_sha256, &id_sha256)
                    && is_same(&session.token_sha256, &token_sha256);
                is_found | is_it
            })
        })
    }
}

/// Returns the ids in a request's cookies.
fn ids(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let lines = headers.get_all(header::COOKIE).iter().filter_map(|line| line.to_str().ok());
    let cookies = lines.flat_map(|line| line.split(';')).map(str::trim);
    cookies.filter_map(|cookie| cookie.strip_prefix(COOKIE)?.strip_prefix('=')).take(SESSIONS_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(cookie: &HeaderValue) -> HeaderMap {
        let pair = cookie.to_str().unwrap().split(';').next().unwrap();
        let text = format!("other=1; {pair}");
        HeaderMap::from_iter([(header::COOKIE, HeaderValue::try_from(text).unwrap())])
    }

    #[test]
    fn a_session_lasts_eight_hours_and_ends_with_its_token() {
        let (sessions, now) = (Sessions::default(), Instant::now());
        let cookie = sessions.begin("token", now).unwrap();
        let headers = request(&cookie);
        assert!(sessions.is_open(&headers, "token", now));
        assert!(!sessions.is_open(&headers, "another token", now));
        assert!(!sessions.is_open(&HeaderMap::new(), "token", now));
        assert!(sessions.is_open(&headers, "token", now + SESSION_MAX - Duration::from_secs(1)));
        assert!(!sessions.is_open(&headers, "token", now + SESSION_MAX));
        assert!(!sessions.is_open(&headers, "token", now), "it is forgotten");
    }

    #[test]
    fn the_oldest_session_ends_when_there_are_too_many() {
        let (sessions, now) = (Sessions::default(), Instant::now());
        let cookies: Vec<_> =
            (0..=SESSIONS_MAX).map(|_| sessions.begin("token", now).unwrap()).collect();
        let open: Vec<_> =
            cookies.iter().map(|cookie| sessions.is_open(&request(cookie), "token", now)).collect();
        assert_eq!(open.iter().filter(|is_open| **is_open).count(), SESSIONS_MAX);
        assert!(!open[0]);
        assert_eq!(cookies.iter().collect::<std::collections::HashSet<_>>().len(), cookies.len());
    }
}
