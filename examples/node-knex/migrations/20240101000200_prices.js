exports.up = (knex) =>
  knex.schema.alterTable("products", (table) => table.decimal("price", 10, 2).notNullable().defaultTo(0));

exports.down = (knex) => knex.schema.alterTable("products", (table) => table.dropColumn("price"));
