// The database's address is in DATABASE_URL, which the application also uses.
module.exports = {
  client: "pg",
  connection: process.env.DATABASE_URL,
};
