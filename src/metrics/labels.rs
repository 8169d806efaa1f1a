//! Values of the metrics' labels.

/// Declares an enum of a label's values, with the text of each.
macro_rules! label {
    (
        $(#[$doc:meta])*
        pub enum $name:ident { $($(#[$value_doc:meta])* $value:ident = $text:literal,)+ }
    ) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name {
            $($(#[$value_doc])* $value,)+
        }

        impl $name {
            /// All values, in order.
            pub const ALL: [Self; [$($text),+].len()] = [$(Self::$value),+];

            /// Returns the label's text.
            #[must_use]
            pub const fn label(self) -> &'static str {
                match self {
                    $(Self::$value => $text,)+
                }
            }
        }
    };
}

label! {
    /// Keeper of checkpoints of the audit journal.
    pub enum CheckpointKeeper {
        /// The journal's own folder.
        Journal = "journal",
        /// A folder named as a copy.
        Copy = "copy",
        /// A witness, which countersigns them.
        Witness = "witness",
    }
}

label! {
    /// Outcome of an exchange.
    pub enum ExchangeOutcome {
        /// A provider's answer was passed on whole.
        Answered = "answered",
        /// The gateway refused the request.
        Refused = "refused",
        /// The exchange ended before its answer was complete.
        Aborted = "aborted",
    }
}

label! {
    /// Fate of a span that was to be exported.
    pub enum SpanFate {
        /// The receiver has taken it.
        Exported = "exported",
        /// The queue was full.
        Dropped = "dropped",
        /// The receiver did not take it, or has rejected it.
        Failed = "failed",
    }
}

label! {
    /// Phase of an exchange, or of its connection, in which time is spent.
    pub enum Phase {
        /// Handshake with a consumer.
        Tls = "tls",
        /// Decisions that wait for nothing.
        Policy = "policy",
        /// Waiting for a place: with the consumer's quota where that is shared, then with the practice.
        Queue = "queue",
        /// Waiting for the directory.
        Directory = "directory",
        /// Waiting until the audit line is on disk.
        Audit = "audit",
        /// From sending a request to a provider to its response head.
        Provider = "provider",
        /// Waiting for the end of a read's empty body, or from the response head to the last byte of the answer.
        Body = "body",
    }
}

label! {
    /// Result of a TLS handshake with a consumer.
    pub enum HandshakeResult {
        /// The certificate is valid.
        Ok = "ok",
        /// The handshake completed without a certificate.
        NoCertificate = "no_certificate",
        /// The handshake completed with a certificate that is refused.
        BadCertificate = "bad_certificate",
        /// The client sent HTTP without TLS.
        PlainHttp = "plain_http",
        /// A load balancer sent no PROXY protocol header.
        ProxyHeaderMissing = "proxy_header_missing",
        /// A load balancer sent a PROXY protocol header that cannot be used.
        ProxyHeaderMalformed = "proxy_header_malformed",
        /// A PROXY protocol header came from an address outside the load balancers' networks.
        ProxyHeaderUninvited = "proxy_header_uninvited",
        /// The handshake failed.
        Failed = "failed",
        /// The handshake exceeded its deadline.
        TimedOut = "timed_out",
    }
}

label! {
    /// Error with which a consumer's connection ended.
    pub enum ConnectionFault {
        /// A request head was not complete in time.
        HeadTimedOut = "head_timed_out",
        /// The consumer took no byte of an answer in time.
        WriteStalled = "write_stalled",
        /// The consumer sent too many frames that carry no data.
        Flooded = "flooded",
        /// The consumer kept the connection open after its last answer.
        Overstayed = "overstayed",
        /// The consumer reset the connection.
        Reset = "reset",
        /// The connection ended in the middle of a message.
        Cut = "cut",
        /// All places for connections whose requests can only be refused were taken.
        NoSlot = "no_slot",
        /// Any other error.
        Other = "other",
    }
}

label! {
    /// Limit at which a consumer's connection is closed before its first request.
    pub enum ConnectionLimit {
        /// Handshakes under way.
        Handshakes = "handshakes",
        /// Connections of one address.
        AddressConnections = "address_connections",
        /// Handshakes of one address that are under way.
        AddressHandshakes = "address_handshakes",
        /// Rate of new connections of one address.
        AddressRate = "address_rate",
        /// Connections with one certificate.
        CertificateConnections = "certificate_connections",
    }
}

label! {
    /// Result of a look-up in the directory.
    pub enum LookupResult {
        /// An entry of the directory file, which overrides the sources.
        Pinned = "pinned",
        /// A fresh cache entry.
        Hit = "hit",
        /// A cache entry served while it is refreshed.
        Stale = "stale",
        /// An old cache entry, refreshed before it was used.
        Refreshed = "refreshed",
        /// A cache entry served because no source answers.
        StaleError = "stale_error",
        /// A cached absence.
        Absent = "absent",
        /// A cache miss: the sources are queried.
        Miss = "miss",
    }
}

label! {
    /// Cause of a practice's look-up at the live sources.
    pub enum LookupTrigger {
        /// A request waits for it.
        Request = "request",
        /// A request was served a stale entry.
        Stale = "stale",
        /// The entry will be stale soon.
        Ahead = "ahead",
        /// A request contradicts the cached entry.
        Conflict = "conflict",
    }
}

label! {
    /// Result of reading other gateways' answers before a look-up.
    pub enum SharedAnswerResult {
        /// They were enough: nothing was asked.
        Used = "used",
        /// The directory had to be asked.
        Asked = "asked",
        /// An answer was not another gateway's: its code is wrong, or it cannot be read.
        Rejected = "rejected",
    }
}

label! {
    /// Contradiction that made a forced look-up necessary.
    pub enum Conflict {
        /// `Ssp-To` is none of the practice's systems.
        Receiver = "receiver",
        /// The target, or the token's audience, is not where the receiver is registered.
        Target = "target",
        /// The provider could not be reached where it is registered.
        Unreached = "unreached",
    }
}

label! {
    /// Result of a forced look-up.
    pub enum ForcedLookupResult {
        /// The cached entry was wrong: the request goes on.
        Resolved = "resolved",
        /// The cached entry was right, or nothing more is known.
        Stands = "stands",
        /// The look-up has begun, and no request waits for it.
        Begun = "begun",
    }
}

impl ForcedLookupResult {
    /// Returns [`Self::Resolved`] for a request that was about to be refused and goes on, else
    /// [`Self::Stands`].
    #[must_use]
    pub const fn when(resolved: bool) -> Self {
        if resolved { Self::Resolved } else { Self::Stands }
    }
}

label! {
    /// Irregularity of a record in the directory.
    pub enum Oddity {
        /// An endpoint without an address.
        NoAddress = "no_address",
        /// An address that is not `https` and a host name.
        BadAddress = "bad_address",
        /// An address with a final slash.
        TrailingSlash = "trailing_slash",
        /// An address on another host than the registered one.
        OtherHost = "other_host",
    }
}

label! {
    /// Kind of records that a query to a directory source is for.
    pub enum QueryKind {
        /// Query for message handlers.
        Handlers = "handlers",
        /// Query for accredited systems.
        Systems = "systems",
    }
}

label! {
    /// Outcome of a query to a directory source.
    pub enum QueryOutcome {
        /// Records were found.
        Found = "found",
        /// The answer was empty.
        Absent = "absent",
        /// The source did not answer in time.
        TimedOut = "timeout",
        /// The source could not be reached or failed.
        Unavailable = "unavailable",
        /// The source refused the query because of its rate limit.
        RateLimited = "rate_limited",
        /// The query had no turn before the look-up's deadline.
        NoTurn = "no_turn",
        /// The source did not accept our credentials.
        Denied = "denied",
        /// The source rejected the query.
        OurFault = "our_fault",
        /// The answer could not be read.
        Malformed = "malformed",
        /// The answer was incomplete or too large.
        Truncated = "truncated",
        /// The source does not support the query.
        Unsupported = "unsupported",
        /// The query was not sent: the source's circuit is open.
        CircuitOpen = "circuit_open",
    }
}
