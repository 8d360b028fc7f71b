"""What a run says about itself: events, figures a step, where its time went."""
