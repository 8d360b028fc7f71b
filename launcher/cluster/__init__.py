"""Ray's part: processes started, lost, grown, drained, hung, and asked to leave."""
