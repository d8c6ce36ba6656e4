"""The app in the browser: page, handlers, views."""
