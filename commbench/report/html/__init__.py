"""The report: one HTML file that opens offline. `page.page` makes it; all other modules make its parts."""
