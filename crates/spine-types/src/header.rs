//! Headers of the Spine Secure Proxy's interface.

/// Header of the Spine Secure Proxy's interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SspHeader {
    /// `Ssp-TraceID`, a new UUID for each request.
    TraceId,
    /// `Ssp-From`, the ASID of the consumer.
    From,
    /// `Ssp-To`, the ASID of the provider.
    To,
    /// `Ssp-InteractionID`, the id of the interaction.
    InteractionId,
}

impl SspHeader {
    /// Returns the header's name as the specification spells it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::TraceId => "Ssp-TraceID",
            Self::From => "Ssp-From",
            Self::To => "Ssp-To",
            Self::InteractionId => "Ssp-InteractionID",
        }
    }

    /// Returns the form that its value must have, to follow "must be".
    #[must_use]
    pub const fn form(self) -> &'static str {
        match self {
            Self::TraceId => "a UUID",
            Self::From | Self::To => "twelve digits",
            Self::InteractionId => "the id of an interaction, in visible ASCII",
        }
    }
}
