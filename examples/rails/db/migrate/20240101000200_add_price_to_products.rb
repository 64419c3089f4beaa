class AddPriceToProducts < ActiveRecord::Migration[6.1]
  def change
    add_column :products, :price, :decimal, precision: 10, scale: 2, null: false, default: 0
  end
end
