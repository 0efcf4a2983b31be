/** Dark and light: the system's choice until a reader makes one. */

/** @param {string} theme "light", "dark", or "" for the system's */
export function applyTheme(theme) {
  if (theme) document.documentElement.dataset.theme = theme;
  else delete document.documentElement.dataset.theme;
}

/** True if the page is dark now. @param {string} theme */
export const isDark = (theme) => (theme ? theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches);
