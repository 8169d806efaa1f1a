//! Curl commands, read as curl does: the request that one would send.

use std::path::{Path, PathBuf};

use super::shell;
use super::wire::{RequestParts, WireRequest, split_url};

/// Options without a value that change nothing about a request over HTTP/1.1.
const IGNORED_FLAGS: &[&str] = &[
    "--insecure",
    "-k",
    "--silent",
    "-s",
    "--show-error",
    "-S",
    "--verbose",
    "-v",
    "--include",
    "-i",
    "--location",
    "-L",
    "--fail",
    "-f",
    "--fail-with-body",
    "--http1.1",
    "--no-buffer",
    "-N",
    "--ipv4",
    "-4",
    "--ipv6",
    "-6",
    "--tlsv1.2",
    "--tlsv1.3",
    "--tls13",
    "--progress-bar",
    "-#",
    "--globoff",
    "-g",
    "--no-progress-meter",
    "--disable",
    "-q",
    "--no-keepalive",
    "--compressed-ssh",
    "--remote-name",
    "-O",
    "--ssl-reqd",
    "--tcp-nodelay",
    "--no-alpn",
    "--no-sessionid",
    "--styled-output",
    "--trace-time",
];
/// Options with a value that change nothing about a request.
const IGNORED_VALUES: &[&str] = &[
    "--key",
    "--cacert",
    "--capath",
    "--cert-type",
    "--key-type",
    "--pass",
    "--output",
    "-o",
    "--max-time",
    "-m",
    "--connect-timeout",
    "--resolve",
    "--connect-to",
    "--write-out",
    "-w",
    "--retry",
    "--tls-max",
    "--ciphers",
    "--tls13-ciphers",
    "--curves",
    "--dump-header",
    "-D",
    "--proxy",
    "-x",
    "--noproxy",
    "--interface",
    "--trace",
    "--trace-ascii",
    "--stderr",
    "--max-redirs",
    "--retry-delay",
    "--crlfile",
];
/// Short options that take a value, which may follow at once.
const SHORT_VALUES: &str = "HXdEomwDxAeb";

/// Command as far as it has been read.
#[derive(Debug, Default)]
struct CurlCommand {
    url: Option<String>,
    method: Option<String>,
    headers: Vec<String>,
    /// Default headers that options set.
    defaults: Vec<(&'static str, String)>,
    data: Option<Vec<u8>>,
    switches: CurlSwitches,
    certificate: Option<PathBuf>,
    notes: Vec<String>,
}

/// Switches of a command that change the request.
#[derive(Debug, Default)]
struct CurlSwitches {
    path_as_is: bool,
    /// Query instead of a body, by `-G`.
    get: bool,
    /// Method HEAD, by `-I`.
    head: bool,
}

/// Returns the request that a curl command sends over HTTP/1.1.
///
/// # Errors
/// Returns a text for an option that is not known, or a command that cannot be read.
pub(super) fn request(command: &str) -> Result<WireRequest, String> {
    let words = shell::words(command)?;
    let mut words = words.into_iter();
    if words.next().as_deref() != Some("curl") {
        return Err("the command is not curl".to_owned());
    }
    let mut curl = CurlCommand::default();
    while let Some(word) = words.next() {
        curl.word(&word, &mut words)?;
    }
    curl.composed()
}

impl CurlCommand {
    /// Reads an option with its value, a group of short options, or the URL.
    fn word(&mut self, word: &str, rest: &mut impl Iterator<Item = String>) -> Result<(), String> {
        if word.starts_with("--") || !word.starts_with('-') || word == "-" {
            return self.option(word, rest);
        }
        let mut letters = word.strip_prefix('-').unwrap_or_default().chars();
        while let Some(letter) = letters.next() {
            let option = format!("-{letter}");
            if SHORT_VALUES.contains(letter) && !letters.as_str().is_empty() {
                let value = letters.as_str().to_owned();
                return self.option(&option, &mut std::iter::once(value));
            }
            self.option(&option, rest)?;
        }
        Ok(())
    }

    fn option(
        &mut self,
        option: &str,
        rest: &mut impl Iterator<Item = String>,
    ) -> Result<(), String> {
        let mut value = || rest.next().ok_or_else(|| format!("{option} has no value"));
        match option {
            _ if IGNORED_FLAGS.contains(&option) => {}
            _ if IGNORED_VALUES.contains(&option) => drop(value()?),
            "-H" | "--header" => {
                let header = value()?;
                if header.starts_with('@') {
                    return Err(format!("{option} names a file: give its headers one by one"));
                }
                self.headers.push(header);
            }
            "-X" | "--request" => self.method = Some(value()?),
            "-d" | "--data" | "--data-ascii" | "--data-binary" => self.data_or_file(value()?),
            "--data-raw" => self.add_data(value()?.into_bytes()),
            "--json" => {
                self.defaults.push(("Content-Type", "application/json".to_owned()));
                self.defaults.push(("Accept", "application/json".to_owned()));
                self.data_or_file(value()?);
            }
            "--url" => self.url = Some(value()?),
            "-E" | "--cert" => self.certificate = Some(certificate_file(value()?)),
            "-A" | "--user-agent" => self.defaults.push(("User-Agent", value()?)),
            "-e" | "--referer" => self.defaults.push(("Referer", value()?)),
            "-b" | "--cookie" => self.defaults.push(("Cookie", value()?)),
            "--oauth2-bearer" => {
                self.defaults.push(("Authorization", format!("Bearer {}", value()?)));
            }
            "--compressed" => {
                self.defaults.push(("Accept-Encoding", "deflate, gzip, br, zstd".to_owned()));
            }
            "--path-as-is" => self.switches.path_as_is = true,
            "-G" | "--get" => self.switches.get = true,
            "-I" | "--head" => self.switches.head = true,
            "--http2" | "--http2-prior-knowledge" => {
                self.notes.push("judged as over HTTP/1.1".to_owned());
            }
            _ if option.starts_with('-') && option != "-" => {
                return Err(format!("the option {option} of curl is not known here"));
            }
            url if self.url.is_none() => self.url = Some(url.to_owned()),
            _ => return Err("the command has more than one URL".to_owned()),
        }
        Ok(())
    }

    /// Adds data, or notes that a file of them is not there.
    fn data_or_file(&mut self, data: String) {
        let Some(path) = data.strip_prefix('@') else { return self.add_data(data.into_bytes()) };
        match std::fs::metadata(path) {
            Ok(file) if file.is_file() => {
                // The content is not judged, only that there is some.
                let bytes = usize::try_from(file.len()).unwrap_or(usize::MAX).min(1);
                self.add_data(vec![b'x'; bytes]);
            }
            Ok(_) | Err(_) => {
                self.notes.push(format!("{path} is not there; taken as a body that is not empty"));
                self.add_data(b"x".to_vec());
            }
        }
    }

    fn add_data(&mut self, data: Vec<u8>) {
        match &mut self.data {
            Some(before) => {
                before.push(b'&');
                before.extend(data);
            }
            None => self.data = Some(data),
        }
    }

    fn composed(mut self) -> Result<WireRequest, String> {
        let url = self.url.take().ok_or("the command has no URL")?;
        let (host, mut target) = host_and_target(&url, self.switches.path_as_is)?;
        let data = self.data.take();
        let mut parts = RequestParts::default();
        if self.switches.get {
            if let Some(data) = &data {
                let separator = if target.contains('?') { '&' } else { '?' };
                target = format!("{target}{separator}{}", String::from_utf8_lossy(data));
            }
        } else {
            parts.body = data.clone().unwrap_or_default();
        }
        let has_data = data.is_some() && !self.switches.get;
        let method = match (self.switches.head, has_data) {
            (true, _) => "HEAD",
            (false, true) => "POST",
            (false, false) => "GET",
        };
        parts.method = self.method.take().unwrap_or_else(|| method.to_owned());
        parts.target = target;
        let usual =
            [("Host", host), ("User-Agent", "curl".to_owned()), ("Accept", "*/*".to_owned())];
        let mut defaults = std::mem::take(&mut self.defaults);
        for (name, value) in usual {
            if !defaults.iter().any(|(known, _)| *known == name) {
                defaults.push((name, value));
            }
        }
        if has_data && !defaults.iter().any(|(known, _)| *known == "Content-Type") {
            let form = "application/x-www-form-urlencoded".to_owned();
            defaults.push(("Content-Type", form));
        }
        parts.headers = headers(defaults, &self.headers)?;
        let certificate = Some(self.certificate);
        Ok(WireRequest { bytes: parts.bytes(), certificate, notes: self.notes })
    }
}

/// Returns the headers that curl sends: its own, unless they are replaced or removed, and those given.
fn headers(
    defaults: Vec<(&'static str, String)>,
    given: &[String],
) -> Result<Vec<(String, String)>, String> {
    let mut all = Vec::new();
    let mut named = Vec::new();
    for header in given {
        // Curl: `Name;` is sent without a value, `Name:` is not sent.
        let (name, value) = match (header.split_once(':'), header.strip_suffix(';')) {
            (Some((name, value)), _) => {
                (name, Some(value.trim()).filter(|value| !value.is_empty()))
            }
            (None, Some(name)) => (name, Some("")),
            (None, None) => return Err("a header has no colon; curl leaves it out".to_owned()),
        };
        named.push(name.trim().to_ascii_lowercase());
        if let Some(value) = value {
            all.push((name.to_owned(), value.to_owned()));
        }
    }
    let mut sent: Vec<_> = defaults
        .into_iter()
        .filter(|(name, _)| !named.contains(&name.to_ascii_lowercase()))
        .map(|(name, value)| (name.to_owned(), value))
        .collect();
    sent.append(&mut all);
    Ok(sent)
}

/// Returns the file of `--cert FILE[:PASSWORD]`.
fn certificate_file(value: String) -> PathBuf {
    if Path::new(&value).exists() {
        return value.into();
    }
    value.split(':').next().unwrap_or_default().into()
}

/// Returns the value of `Host` and the target that curl sends for a URL.
fn host_and_target(url: &str, is_as_is: bool) -> Result<(String, String), String> {
    let (scheme, _) = url.split_once("://").unwrap_or(("http", url));
    let (authority, target) = match split_url(url) {
        Some(split) if scheme.eq_ignore_ascii_case("https") => split,
        Some(_) | None => return Err("the URL is not https".to_owned()),
    };
    if authority.contains('@') {
        return Err("the URL has a user name, which curl sends as Authorization: Basic".to_owned());
    }
    let host = authority.strip_suffix(":443").unwrap_or(authority).to_owned();
    if is_as_is {
        return Ok((host, target));
    }
    let (path, query) = target.split_at(target.find('?').unwrap_or(target.len()));
    Ok((host, format!("{}{query}", without_dots(path))))
}

/// Removes `.` and `..` from a path (RFC 3986 §5.2.4), as curl does without `--path-as-is`.
fn without_dots(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let is_last = segments.peek().is_none();
        match segment {
            "." | ".." => {
                if segment == ".." {
                    kept.pop();
                }
                if is_last {
                    kept.push("");
                }
            }
            other => kept.push(other),
        }
    }
    format!("/{}", kept.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(command: &str) -> String {
        String::from_utf8(request(command).unwrap().bytes).unwrap()
    }

    #[test]
    fn a_command_becomes_the_request_that_curl_sends() {
        assert_eq!(
            sent(
                "curl -sSk https://ssp.nhs.uk:443/https://p.uk/A/../B/Slot?a=b#c -H 'Accept:' -HA:\\ b"
            ),
            "GET /https://p.uk/B/Slot?a=b HTTP/1.1\r\nHost: ssp.nhs.uk\r\nUser-Agent: curl\r\nA: b\r\n\r\n"
        );
        assert_eq!(
            sent("curl --path-as-is --url https://h:8443/a/../b -A x -H 'host: y' -H 'E;'"),
            "GET /a/../b HTTP/1.1\r\nUser-Agent: x\r\nAccept: */*\r\nhost: y\r\nE: \r\n\r\n"
        );
        assert_eq!(
            sent("curl https://h/a -d x --data-raw @y"),
            "POST /a HTTP/1.1\r\nHost: h\r\nUser-Agent: curl\r\nAccept: */*\r\n\
             Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 4\r\n\r\nx&@y"
        );
        assert_eq!(sent("curl -G -d a=b https://h?c").lines().next(), Some("GET /?c&a=b HTTP/1.1"));
        assert_eq!(sent("curl -I https://h").lines().next(), Some("HEAD / HTTP/1.1"));
        assert_eq!(sent("curl -XPUT https://h --json '{}'").lines().next(), Some("PUT / HTTP/1.1"));
        let with = request("curl https://h -E hub.pem:secret --key k").unwrap();
        assert_eq!(with.certificate, Some(Some("hub.pem".into())));
        let with = request("curl https://h -d @/nowhere/body.json").unwrap();
        assert!(with.bytes.ends_with(b"x") && with.notes.len() == 1);
    }

    #[test]
    fn what_is_not_known_is_named() {
        for (command, fault) in [
            ("curl https://h --frobnicate", "--frobnicate"),
            ("curl https://h -sZ", "-Z"),
            ("curl https://h -H", "-H has no value"),
            ("curl http://h", "not https"),
            ("curl https://u:p@h", "user name"),
            ("curl -s", "no URL"),
            ("curl https://h https://i", "more than one"),
            ("wget https://h", "not curl"),
        ] {
            let found = request(command).unwrap_err();
            assert!(found.contains(fault), "{command}: {found}");
        }
    }
}
