// The database is in DATABASE_URL, as for the application.
module.exports = {
  dialect: "postgresql",
  schema: "./schema.js",
  out: "./drizzle",
  dbCredentials: { url: process.env.DATABASE_URL },
};
