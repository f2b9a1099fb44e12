"""Pages in a real browser: headless Chromium, driven by Playwright. Run by `make test-browser`."""
