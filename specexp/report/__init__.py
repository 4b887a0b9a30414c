"""What people look at: tables, progress, pages. From records and summaries alone; no decoding code, no torch."""
