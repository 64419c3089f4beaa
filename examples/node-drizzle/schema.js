// The tables. `npx drizzle-kit generate` compares them with drizzle/meta and writes the next migration.
const { numeric, pgTable, serial, text } = require("drizzle-orm/pg-core");

exports.products = pgTable("products", {
  id: serial().primaryKey(),
  name: text().notNull().unique(),
  price: numeric({ precision: 10, scale: 2 }).notNull().default("0"),
});
