// The database's address is in DATABASE_URL, which the application also uses.
module.exports = {
  dialect: "postgresql",
  schema: "./schema.js",
  out: "./drizzle",
  dbCredentials: { url: process.env.DATABASE_URL },
};
