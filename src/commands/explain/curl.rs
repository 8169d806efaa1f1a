//! Curl commands, read as curl does: the request that one would send.

use std::path::{Path, PathBuf};

use http::Version;

use super::input::read_limited;
use super::options;
use super::wire::{HttpsUrl, RequestParts, WireRequest};
use super::{cmd, shell};

/// Command as far as it has been read.
#[derive(Debug, Default)]
struct CurlCommand {
    url: Option<String>,
    /// Target that is sent instead of that of the URL.
    target: Option<String>,
    method: Option<String>,
    /// Version that options choose; curl itself chooses HTTP/2.
    version: Option<Version>,
    headers: Vec<String>,
    /// Default headers that options set.
    defaults: Vec<(&'static str, String)>,
    /// User name and password, with a colon between them.
    user: Option<String>,
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
/// Returns a text for an option that is not supported, or a command that cannot be read. It repeats no values.
pub(super) fn request(command: &str) -> Result<WireRequest, String> {
    let words = if cmd::is_for_cmd(command) { cmd::words } else { shell::words };
    let is_continued = |line: &str| line.trim_end().ends_with('`');
    let words =
        words(command).map_err(|why| match command.lines().next().is_some_and(is_continued) {
            true => "the command is written for PowerShell: copy it as cURL (bash)".to_owned(),
            false => why,
        })?;
    // The first word is curl itself.
    let mut words = words.into_iter().skip(1);
    let mut curl = CurlCommand::default();
    while let Some(word) = words.next() {
        curl.word(&word, &mut words)?;
    }
    curl.composed()
}

impl CurlCommand {
    /// Reads an option with its value, a group of short options, or the URL.
    fn word(&mut self, word: &str, rest: &mut impl Iterator<Item = String>) -> Result<(), String> {
        if word == "--" {
            return Ok(());
        }
        if let Some(name) = word.strip_prefix("--") {
            return self.option(name, || rest.next());
        }
        let Some(letters) = word.strip_prefix('-').filter(|letters| !letters.is_empty()) else {
            return self.add_url(word.to_owned());
        };
        let mut letters = letters.chars();
        while let Some(letter) = letters.next() {
            let name =
                options::long_name(letter).ok_or_else(|| options::fault(&letter.to_string()))?;
            let attached = Some(letters.as_str().to_owned()).filter(|value| !value.is_empty());
            self.option(name, || attached.or_else(|| rest.next()))?;
            if options::has_value(name) {
                break;
            }
        }
        Ok(())
    }

    /// Reads an option by its long name.
    fn option(&mut self, name: &str, value: impl FnOnce() -> Option<String>) -> Result<(), String> {
        if options::has_value(name) {
            let value = value().ok_or_else(|| format!("--{name} has no value"))?;
            return if options::is_ignored(name) { Ok(()) } else { self.valued(name, value) };
        }
        match name.strip_prefix("no-") {
            Some(name) => self.flag(name, false),
            None => self.flag(name, true),
        }
    }

    fn valued(&mut self, name: &str, value: String) -> Result<(), String> {
        match name {
            "header" if value.starts_with('@') => {
                return Err("--header names a file: give its headers one by one".to_owned());
            }
            "header" => self.headers.push(value),
            "request" => self.method = Some(value),
            "request-target" => self.target = Some(value),
            "url" => return self.add_url(value),
            "data" | "data-ascii" | "data-binary" => {
                let is_binary = name == "data-binary";
                let data = match value.strip_prefix('@') {
                    Some(path) if is_binary => self.file(name, path),
                    Some(path) => without_line_ends(self.file(name, path)),
                    None => value.into_bytes(),
                };
                self.add_data(data, "&");
            }
            "data-raw" => self.add_data(value.into_bytes(), "&"),
            "data-urlencode" => {
                let data = self.url_encoded(&value);
                self.add_data(data, "&");
            }
            "json" => {
                self.set_default("Content-Type", "application/json".to_owned());
                self.set_default("Accept", "application/json".to_owned());
                let data = match value.strip_prefix('@') {
                    Some(path) => self.file(name, path),
                    None => value.into_bytes(),
                };
                self.add_data(data, "");
            }
            "cert" => self.certificate = Some(certificate_file(&value)?),
            "user" => self.user = Some(value),
            "oauth2-bearer" => self.set_default("Authorization", format!("Bearer {value}")),
            "user-agent" => self.set_default("User-Agent", value),
            "referer" => self.set_default("Referer", value),
            "cookie" => self.set_default("Cookie", value),
            "range" => self.set_default("Range", format!("bytes={value}")),
            _ => return Err(options::fault(name)),
        }
        Ok(())
    }

    fn flag(&mut self, name: &str, is_on: bool) -> Result<(), String> {
        match name {
            _ if options::is_ignored(name) => {}
            "path-as-is" => self.switches.path_as_is = is_on,
            "get" => self.switches.get = is_on,
            "head" => self.switches.head = is_on,
            "http1.0" => self.version = Some(Version::HTTP_10),
            "http1.1" => self.version = Some(Version::HTTP_11),
            "http2" | "http2-prior-knowledge" => self.version = Some(Version::HTTP_2),
            "alpn" if !is_on => self.version = self.version.or(Some(Version::HTTP_11)),
            "alpn" => {}
            "compressed" if is_on => {
                self.set_default("Accept-Encoding", "deflate, gzip, br, zstd".to_owned());
            }
            "compressed" => self.defaults.retain(|(name, _)| *name != "Accept-Encoding"),
            "tr-encoding" => {
                self.set_default("Connection", "TE".to_owned());
                self.set_default("TE", "gzip".to_owned());
            }
            _ => return Err(options::fault(name)),
        }
        Ok(())
    }

    fn add_url(&mut self, url: String) -> Result<(), String> {
        match self.url.replace(url) {
            None => Ok(()),
            Some(_) => Err("the command has more than one URL".to_owned()),
        }
    }

    fn set_default(&mut self, name: &'static str, value: String) {
        self.defaults.retain(|(known, _)| *known != name);
        self.defaults.push((name, value));
    }

    fn add_data(&mut self, data: Vec<u8>, separator: &str) {
        match &mut self.data {
            Some(before) => {
                before.extend_from_slice(separator.as_bytes());
                before.extend(data);
            }
            None => self.data = Some(data),
        }
    }

    /// Returns the content of a file that an option names, or notes that it is not there.
    fn file(&mut self, option: &str, path: &str) -> Vec<u8> {
        let is_file = std::fs::metadata(path).is_ok_and(|file| file.is_file());
        let file = is_file.then(|| std::fs::File::open(path).ok()).flatten();
        file.and_then(|file| read_limited(file).ok()).unwrap_or_else(|| {
            let note = format!("the file of --{option} cannot be read; taken as not empty");
            self.notes.push(note);
            b"x".to_vec()
        })
    }

    /// Returns the data of `--data-urlencode`: `content`, `=content`, `name=content`, `@file` or `name@file`.
    fn url_encoded(&mut self, value: &str) -> Vec<u8> {
        let at = value.find('=').or_else(|| value.find('@'));
        let (name, content) = at.and_then(|at| value.split_at_checked(at)).unwrap_or(("", value));
        let content = match (content.strip_prefix('='), content.strip_prefix('@')) {
            (Some(content), _) => content.as_bytes().to_vec(),
            (None, Some(path)) => self.file("data-urlencode", path),
            (None, None) => content.as_bytes().to_vec(),
        };
        let mut data = name.to_owned();
        if !name.is_empty() {
            data.push('=');
        }
        for byte in content {
            match byte {
                b' ' => data.push('+'),
                _ if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) => {
                    data.push(char::from(byte));
                }
                _ => data.push_str(&format!("%{byte:02X}")),
            }
        }
        data.into_bytes()
    }

    fn composed(mut self) -> Result<WireRequest, String> {
        let url = self.url.take().ok_or("the command has no URL")?;
        let HttpsUrl { user, host, mut target } = HttpsUrl::parse(&url)?;
        if !self.switches.path_as_is {
            target = without_dots(&target);
        }
        let mut data = self.data.take();
        if self.switches.get
            && let Some(data) = data.take()
        {
            let separator = if target.contains('?') { '&' } else { '?' };
            target = format!("{target}{separator}{}", String::from_utf8_lossy(&data));
        }
        if let Some(user) = self.user.take().or_else(|| user.map(str::to_owned))
            && !self.defaults.iter().any(|(name, _)| *name == "Authorization")
        {
            let colon = if user.contains(':') { "" } else { ":" };
            let basic = base64_simd::STANDARD.encode_to_string(format!("{user}{colon}"));
            self.set_default("Authorization", format!("Basic {basic}"));
        }
        let method = match (self.switches.head, &data) {
            (true, Some(_)) => {
                return Err("the command has -I and data, which curl refuses".to_owned());
            }
            (true, None) => "HEAD",
            (false, Some(_)) => "POST",
            (false, None) => "GET",
        };
        let method = self.method.take().unwrap_or_else(|| method.to_owned());
        let target = self.target.take().unwrap_or(target);
        let version = match self.version {
            Some(Version::HTTP_10) => Version::HTTP_10,
            Some(Version::HTTP_11) => Version::HTTP_11,
            Some(_) | None => {
                let note = "curl would use HTTP/2, without --http1.1; judged as over HTTP/1.1";
                self.notes.push(note.to_owned());
                Version::HTTP_11
            }
        };
        let headers = self.sent_headers(host, data.as_deref());
        let line = format!("{method} {target} {version:?}");
        let bytes = RequestParts { line, headers, body: data }.bytes();
        Ok(WireRequest { bytes, certificate: Some(self.certificate), notes: self.notes })
    }

    /// Returns the headers that curl sends: its own, unless they are replaced or removed, and those given.
    fn sent_headers(&mut self, host: &str, data: Option<&[u8]>) -> Vec<(String, String)> {
        let usual = [("Host", host), ("User-Agent", "curl"), ("Accept", "*/*")];
        let mut defaults = std::mem::take(&mut self.defaults);
        let mut add = |name: &'static str, value: String| {
            if !defaults.iter().any(|(known, _)| *known == name) {
                defaults.push((name, value));
            }
        };
        usual.into_iter().for_each(|(name, value)| add(name, value.to_owned()));
        if let Some(data) = data {
            add("Content-Type", "application/x-www-form-urlencoded".to_owned());
            if !self.headers.iter().any(|header| is_chunked(header)) {
                add("Content-Length", data.len().to_string());
            }
        }
        // An option with an empty value removes the header.
        defaults.retain(|(name, value)| {
            !value.is_empty() && !self.headers.iter().any(|header| is_named(header, name))
        });
        let mut sent: Vec<_> =
            defaults.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        let mut has_host = false;
        for header in &self.headers {
            // The first Host counts alone.
            if is_named(header, "Host") && std::mem::replace(&mut has_host, true) {
                continue;
            }
            match given_header(header) {
                Some(header) => sent.push(header),
                None if header.find(':').is_some_and(|at| at > 0) => {}
                None => {
                    self.notes
                        .push("curl leaves out a header that has no colon or name".to_owned());
                }
            }
        }
        sent
    }
}

/// Returns true if a header of the command line replaces or removes one of this name.
fn is_named(header: &str, name: &str) -> bool {
    header.split_once([':', ';']).is_some_and(|(given, _)| given.eq_ignore_ascii_case(name))
}

/// Returns true if a header of the command line makes curl chunk the body.
fn is_chunked(header: &str) -> bool {
    is_named(header, "Transfer-Encoding") && header.to_ascii_lowercase().contains("chunked")
}

/// Returns the header that is sent: `Name;` is sent without a value, `Name:` is not sent.
fn given_header(header: &str) -> Option<(String, String)> {
    let (name, value) = match header.split_once(':') {
        Some((name, value)) if !value.trim().is_empty() => (name, value),
        Some(_) => return None,
        None => header.split_once(';').filter(|(_, rest)| rest.is_empty())?,
    };
    (!name.is_empty()).then(|| (name.to_owned(), value.trim().to_owned()))
}

/// Removes what curl removes of a file of `--data`.
fn without_line_ends(mut data: Vec<u8>) -> Vec<u8> {
    data.retain(|byte| !matches!(byte, b'\r' | b'\n' | 0));
    data
}

/// Returns the file of `--cert FILE[:PASSWORD]`.
fn certificate_file(value: &str) -> Result<PathBuf, String> {
    let file = value.split(':').next().unwrap_or_default();
    match Path::new(value).exists() {
        true => Ok(value.into()),
        false if file.starts_with("~/") => {
            Err("--cert names a file in ~, which is not expanded: write the folder out".to_owned())
        }
        false => Ok(file.into()),
    }
}

/// Removes `.` and `..` from the path of a target (RFC 3986 §5.2.4), as curl does without `--path-as-is`.
fn without_dots(target: &str) -> String {
    let (path, query) = target.split_at(target.find('?').unwrap_or(target.len()));
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
    format!("/{}{query}", kept.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(command: &str) -> String {
        String::from_utf8(request(command).unwrap().bytes).unwrap()
    }

    fn line(command: &str) -> String {
        sent(command).lines().next().unwrap().to_owned()
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
        assert_eq!(line("curl -G -d a=b https://h?c"), "GET /?c&a=b HTTP/1.1");
        assert_eq!(line("curl -I https://h"), "HEAD / HTTP/1.1");
        assert_eq!(line("curl -XPUT https://h --json '{}'"), "PUT / HTTP/1.1");
        assert_eq!(line("curl -0 https://h --request-target x"), "GET x HTTP/1.0");
        assert_eq!(
            line("curl -G https://h --data-urlencode 'n=a b~/é' --data-urlencode '=q' -d z"),
            "GET /?n=a+b~%2F%C3%A9&q&z HTTP/1.1"
        );
        let with = request("curl https://h -E hub.pem:secret --key k").unwrap();
        assert_eq!(with.certificate, Some(Some("hub.pem".into())));
    }

    #[test]
    fn headers_and_bodies_are_those_of_curl() {
        let own = "GET / HTTP/1.1\r\nHost: h\r\n";
        for (options, rest) in [
            ("-H 'Host: a' -H 'host: b'", "GET / HTTP/1.1\r\nHost: a\r\n\r\n"),
            ("-H ': x' -H 'a;b;' -H foo -H '' -H 'Z; '", &format!("{own}\r\n")),
            ("-X GET -d x -H Content-Length: -H Content-Type:", &format!("{own}\r\nx")),
            ("-u me:pw", &format!("Authorization: Basic bWU6cHc=\r\n{}", "Host: h\r\n\r\n")),
            ("-u me -H 'Authorization: b'", &format!("{own}Authorization: b\r\n\r\n")),
            ("--oauth2-bearer q -u a:b", "Authorization: Bearer q\r\nHost: h\r\n\r\n"),
            ("-d x -H 'Transfer-Encoding: chunked'", "chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n"),
            ("-d '' -H 'Transfer-Encoding: chunked'", "chunked\r\n\r\n0\r\n\r\n"),
            ("-H 'Transfer-Encoding: chunked'", "chunked\r\n\r\n"),
            ("--json '{}' --json '{}'", "Content-Length: 4\r\n\r\n{}{}"),
            ("--compressed --no-compressed", &format!("{own}\r\n")),
            ("-d @/nowhere/body.json", "\r\n\r\nx"),
            ("-r 0-4", "Range: bytes=0-4\r\nHost: h\r\n\r\n"),
        ] {
            let command = format!("curl https://h -A '' -H Accept: {options}");
            assert!(sent(&command).ends_with(rest), "{options}: {:?}", sent(&command));
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "\r\n\n").unwrap();
        let path = file.path().display();
        for (option, body) in
            [("-d", ""), ("--data-binary", "\r\n\n"), ("--data-urlencode", "%0D%0A%0A")]
        {
            let sent = sent(&format!("curl https://h {option} @{path}"));
            assert_eq!(sent.split_once("\r\n\r\n").unwrap().1, body, "{option}");
        }
    }

    #[test]
    fn options_without_effect_are_left_out() {
        let plain = sent("curl https://h");
        for options in [
            "-kLsSfiNOJvgnZ1 --location-trusted --no-location --ssl-no-revoke --retry-all-errors",
            "--create-dirs -c jar --keepalive-time 2 --limit-rate 1M --max-filesize 1M --tlsv1",
            "--ssl --basic --raw --fail-early --no-compressed --proxy-header 'A: b' --no-alpn --",
            "-sSLo/dev/null -w '%{http_code}' -m5 -x http://p --no-progress-meter --no-keepalive",
        ] {
            assert_eq!(sent(&format!("curl https://h {options}")), plain, "{options}");
        }
    }

    #[test]
    fn what_is_not_supported_is_named_without_values() {
        for (command, fault) in [
            ("curl https://h --frobnicate", "--frobnicate"),
            ("curl https://h -s!", "-!"),
            ("curl https://h -H", "--header has no value"),
            ("curl https://h -F a=b", "--form of curl is not supported"),
            ("curl https://h -T x", "--upload-file of curl is not supported"),
            ("curl https://h -K x", "--config of curl is not supported"),
            ("curl https://h -z x", "--time-cond of curl is not supported"),
            ("curl https://h --next https://i", "--next of curl is not supported"),
            ("curl https://h --oauth2-bearer=secret", "value of --oauth2-bearer from"),
            ("curl https://h --secret=9990000018", "--secret of curl is not known"),
            ("curl https://h -E ~/secret.pem", "not expanded"),
            ("curl https://h -I -d secret", "-I and data"),
            ("curl http://h", "not https"),
            ("curl -s", "no URL"),
            ("curl https://h https://i", "more than one"),
            ("curl https://h `\n -H 'A: secret'", "PowerShell"),
        ] {
            let found = request(command).unwrap_err();
            assert!(found.contains(fault), "{command}: {found}");
            let value = found.replace("--secret", "");
            assert!(!value.contains("secret") && !value.contains("999"), "{found}");
        }
    }

    #[test]
    fn the_version_of_http_is_noted_unless_it_is_chosen() {
        for (options, notes) in
            [("", 1), ("--http2", 1), ("--http1.1", 0), ("-0", 0), ("--no-alpn", 0)]
        {
            let read = request(&format!("curl https://h {options}")).unwrap();
            assert_eq!(read.notes.len(), notes, "{options}");
        }
    }
}
