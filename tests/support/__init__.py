"""What tests share: tiny models, servers, clocks."""
