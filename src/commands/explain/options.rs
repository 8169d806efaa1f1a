//! Options of curl by their effect on a request: those that have none, those with a value, and those that are not
//! supported.

/// Options without a value that change nothing about a request over HTTP/1.1. Each has a form with `--no-`.
const IGNORED_FLAGS: &[&str] = &[
    "basic",
    "buffer",
    "compressed-ssh",
    "create-dirs",
    "disable",
    "fail",
    "fail-early",
    "fail-with-body",
    "globoff",
    "include",
    "insecure",
    "ipv4",
    "ipv6",
    "junk-session-cookies",
    "keepalive",
    "location",
    "location-trusted",
    "netrc",
    "parallel",
    "progress-bar",
    "progress-meter",
    "proxy-insecure",
    "proxytunnel",
    "raw",
    "remote-header-name",
    "remote-name",
    "remote-time",
    "remove-on-error",
    "retry-all-errors",
    "retry-connrefused",
    "sessionid",
    "show-error",
    "silent",
    "ssl",
    "ssl-no-revoke",
    "ssl-reqd",
    "ssl-revoke-best-effort",
    "styled-output",
    "tcp-nodelay",
    "tlsv1",
    "tlsv1.0",
    "tlsv1.1",
    "tlsv1.2",
    "tlsv1.3",
    "trace-time",
    "use-ascii",
    "verbose",
];
/// Options with a value that change nothing about a request.
const IGNORED_VALUES: &[&str] = &[
    "cacert",
    "capath",
    "cert-type",
    "ciphers",
    "connect-timeout",
    "connect-to",
    "cookie-jar",
    "crlfile",
    "curves",
    "dump-header",
    "interface",
    "keepalive-time",
    "key",
    "key-type",
    "limit-rate",
    "max-filesize",
    "max-redirs",
    "max-time",
    "noproxy",
    "output",
    "output-dir",
    "pass",
    "proxy",
    "proxy-header",
    "proxy-user",
    "resolve",
    "retry",
    "retry-delay",
    "retry-max-time",
    "speed-limit",
    "speed-time",
    "stderr",
    "tls-max",
    "tls13-ciphers",
    "trace",
    "trace-ascii",
    "write-out",
];
/// Options with a value that change the request.
const VALUES: &[&str] = &[
    "cert",
    "cookie",
    "data",
    "data-ascii",
    "data-binary",
    "data-raw",
    "data-urlencode",
    "header",
    "json",
    "oauth2-bearer",
    "range",
    "referer",
    "request",
    "request-target",
    "url",
    "user",
    "user-agent",
];
/// Options that are known and not supported, and why.
const REFUSED: &[(&str, &str)] = &[
    ("config", "it reads options from a file: give them one by one"),
    ("form", "a multipart body is not read: give a body with --data-binary"),
    ("next", "it begins another request: give one"),
    ("time-cond", "the header that it makes is not known: give If-Modified-Since with -H"),
    ("upload-file", "give the body with -X PUT --data-binary"),
];
/// Short options, and their long names.
const SHORT: &[(char, &str)] = &[
    ('#', "progress-bar"),
    ('0', "http1.0"),
    ('1', "tlsv1"),
    ('4', "ipv4"),
    ('6', "ipv6"),
    (':', "next"),
    ('A', "user-agent"),
    ('B', "use-ascii"),
    ('D', "dump-header"),
    ('E', "cert"),
    ('F', "form"),
    ('G', "get"),
    ('H', "header"),
    ('I', "head"),
    ('J', "remote-header-name"),
    ('K', "config"),
    ('L', "location"),
    ('N', "no-buffer"),
    ('O', "remote-name"),
    ('R', "remote-time"),
    ('S', "show-error"),
    ('T', "upload-file"),
    ('U', "proxy-user"),
    ('X', "request"),
    ('Y', "speed-limit"),
    ('Z', "parallel"),
    ('b', "cookie"),
    ('c', "cookie-jar"),
    ('d', "data"),
    ('e', "referer"),
    ('f', "fail"),
    ('g', "globoff"),
    ('i', "include"),
    ('j', "junk-session-cookies"),
    ('k', "insecure"),
    ('m', "max-time"),
    ('n', "netrc"),
    ('o', "output"),
    ('p', "proxytunnel"),
    ('q', "disable"),
    ('r', "range"),
    ('s', "silent"),
    ('u', "user"),
    ('v', "verbose"),
    ('w', "write-out"),
    ('x', "proxy"),
    ('y', "speed-time"),
    ('z', "time-cond"),
];
/// Limit: characters of an unknown option that are shown; a value may be pasted to it.
const NAME_CHARACTERS_MAX: usize = 30;

/// Returns the long name of a short option.
pub(super) fn long_name(letter: char) -> Option<&'static str> {
    SHORT.iter().find(|(short, _)| *short == letter).map(|(_, long)| *long)
}

/// Returns true if an option has a value.
pub(super) fn has_value(name: &str) -> bool {
    IGNORED_VALUES.contains(&name) || VALUES.contains(&name)
}

/// Returns true if an option changes nothing about a request.
pub(super) fn is_ignored(name: &str) -> bool {
    IGNORED_VALUES.contains(&name) || IGNORED_FLAGS.contains(&name)
}

/// Returns why an option, by its long name or its letter, is not supported. Nothing that may be a value is repeated.
pub(super) fn fault(name: &str) -> String {
    if let Some((_, why)) = REFUSED.iter().find(|(refused, _)| *refused == name) {
        return format!("the option --{name} of curl is not supported: {why}");
    }
    if let Some((known, _)) = name.split_once('=').filter(|(known, _)| has_value(known)) {
        return format!("curl takes the value of --{known} from the next word, not after =");
    }
    let is_legal = |c: &char| c.is_ascii_lowercase() || matches!(c, '-' | '.');
    let shown: String = name.chars().take_while(is_legal).take(NAME_CHARACTERS_MAX).collect();
    match name.chars().count() {
        1 => format!("the option -{name} of curl is not known here"),
        _ => format!("the option --{shown} of curl is not known here"),
    }
}
