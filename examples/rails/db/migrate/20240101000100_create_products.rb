class CreateProducts < ActiveRecord::Migration[6.1]
  def up
    create_table :products do |t|
      t.string :name, null: false, index: { unique: true }
    end
    execute "INSERT INTO products (name) VALUES ('apple'), ('pear')"
  end

  def down
    drop_table :products
  end
end
