// The database is in DATABASE_URL, as for the application.
module.exports = {
  client: "pg",
  connection: process.env.DATABASE_URL,
};
