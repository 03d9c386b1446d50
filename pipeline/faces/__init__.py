"""Stage `faces`: follow the face and cut aligned crops."""
