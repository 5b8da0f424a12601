//! Counters, latency histograms and their texts.
